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
    assert name_problem(suggested, "a head") is None


@pytest.mark.parametrize("name", ["images", "patches", "head0", "image", "logits4", "größe"])
def test_ordinary_names_pass(name: str) -> None:
    assert name_problem(name, "an input") is None


@pytest.mark.parametrize(
    ("name", "normal"),
    [("ſelf", "self"), ("ｔｏｒｃｈ", "torch"), ("ﬁ", "fi"), ("ｃｌａｓｓ", "class"), ("e\u0301", "é"), ("𝐱", "x")],
)
def test_names_are_compared_as_python_reads_them(name: str, normal: str) -> None:
    problem = name_problem(name, "an input")
    assert problem is not None
    assert f"`{normal}`" in problem[0]
    assert name_problem(problem[1].split("`")[1], "an input") is None
