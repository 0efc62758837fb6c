from __future__ import annotations

import keyword

import pytest
import torch
from torch import fx, nn

from graphmodel.spec.names import RESERVED, name_problem


def test_every_public_attribute_of_torchs_modules_is_reserved() -> None:
    module = fx.GraphModule(nn.Module(), fx.Graph())
    public = {n for m in (nn.Module(), nn.ModuleDict(), module) for n in dir(m) if not n.startswith("_")}
    assert public - RESERVED <= {"shape_env"}, f"torch {torch.__version__} has new attributes"


@pytest.mark.parametrize("name", ["type", "train", "forward", "class", "img-1", "1a", "self", "", "a b", "_x", "é x"])
def test_names_that_break_generated_code_are_refused(name: str) -> None:
    problem = name_problem(name, "a head")
    assert problem is not None
    suggested = problem[1].split("`")[1]
    assert suggested.isidentifier()
    assert not keyword.iskeyword(suggested)


@pytest.mark.parametrize("name", ["images", "patches", "head0", "image", "logits4", "größe"])
def test_ordinary_names_pass(name: str) -> None:
    assert name_problem(name, "an input") is None
