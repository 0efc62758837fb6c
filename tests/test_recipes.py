"""The recipes compute what the papers' own code does: the same outputs, loss, gradients, statistics and teachers."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import app
from tests.conftest import EXAMPLES, ROOT
from tests.recipes import reference_labels, reference_maps, reference_patches, reference_prototypes, reference_views
from tests.recipes.cases import Case

FOLDER = EXAMPLES / "recipes"
MODULES = (reference_labels, reference_maps, reference_patches, reference_prototypes, reference_views)
CASES: dict[str, Case] = {name: case for module in MODULES for name, case in module.CASES.items()}
FILES = sorted(FOLDER.glob("*.yaml"))
QUICK = ("simclr", "simsiam", "swav", "dino", "masked_images", "clip", "dinov2_linear")
"""The recipes that plain `pytest` compares: each way of reading views, copies, masks and tokens."""
HELP = "run `python scripts/recipes.py`, look at the pictures, and commit them"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes_script", ROOT / "scripts" / "recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipes_script"] = module
    spec.loader.exec_module(module)
    return module


def small(name: str) -> graphmodel.CompiledModel:
    """A recipe with small sizes, in double precision."""
    return graphmodel.compile(FOLDER / f"{name}.yaml", seed=0, overrides=CASES[name].small).double()


def pairs(case: Case, model: nn.Module, reference: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    """Every tensor of the recipe with that of the reference, and its name."""
    found = []
    for theirs, ours in case.parts.items():
        mine, other = (
            module.get_submodule(name).state_dict(keep_vars=True)
            for module, name in ((model, ours), (reference, theirs))
        )
        assert mine.keys() == other.keys(), ours
        found += [(mine[key], other[key], f"{ours}.{key}") for key in mine]
    assert {name for _, _, name in found} == set(model.state_dict())
    assert len(found) == len(reference.state_dict())
    return found


def named(name: str) -> Callable[[str], str]:
    return lambda text: f"{name}: {text}"


@torch.no_grad()
def average(reference: nn.Module, teachers: Any, momentum: float) -> None:
    """Moves the teachers of a reference towards their students."""
    for teacher, student in teachers.items():
        parts = [reference.get_submodule(name) for name in (teacher, student)]
        # A teacher in train mode has statistics of its own: the papers' code averages parameters only.
        averaged, source = (
            {**dict(p.named_parameters()), **({} if p.training else dict(p.named_buffers()))} for p in parts
        )
        for key, tensor in averaged.items():
            moved = momentum * tensor + (1 - momentum) * source[key] if tensor.is_floating_point() else source[key]
            tensor.copy_(moved)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in CASES])
def test_a_recipe_equals_the_method_by_hand(name: str) -> None:
    """One training step: outputs, loss, gradients, and afterwards every tensor of both models."""
    case = CASES[name]
    model = small(name)
    with torch.device("meta"):  # every tensor gets its value from the recipe
        reference = case.reference().double()
    reference = reference.to_empty(device="cpu")
    tensors = pairs(case, model, reference)
    with torch.no_grad():
        for ours, theirs, _ in tensors:
            theirs.copy_(ours)
    batch = list(case.inputs())
    mine, other = model(*batch), reference(*batch)
    assert list(mine) == list(other)
    for output, tensor in mine.items():
        torch.testing.assert_close(tensor, other[output], msg=named(output))
        assert tensor.requires_grad == other[output].requires_grad, output
    losses = case.loss(mine), case.loss(other)
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    trained = 0
    with torch.no_grad():
        for ours, theirs, path in tensors:
            assert ours.requires_grad == theirs.requires_grad, path
            assert (ours.grad is None) == (theirs.grad is None), path
            if ours.grad is not None and theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, msg=named(path))
                trained += bool(ours.grad.any())
                ours -= 0.1 * ours.grad
                theirs -= 0.1 * theirs.grad
    assert trained > 1
    if case.teachers:
        graphmodel.update_teacher(model, 0.9)
        average(reference, case.teachers, 0.9)
    for ours, theirs, path in tensors:
        torch.testing.assert_close(ours, theirs, msg=named(path))


def test_every_recipe_is_compared_and_described() -> None:
    names = [path.stem for path in FILES]
    assert names == sorted(CASES)
    assert names == sorted(script().RECIPES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_is_short_and_links_its_papers(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= 25
    links = re.findall(r"https://arxiv\.org/abs/(\S+)", "\n".join(line for line in lines[:5] if line.startswith("#")))
    assert links == list(script().RECIPES[path.stem].papers.values())


def test_the_page_is_what_the_script_writes() -> None:
    assert (ROOT / "docs" / "recipes.md").read_text("utf-8") == script().page(), HELP
    assert sorted(p.stem for p in (ROOT / "docs" / "recipes").glob("*.svg")) == [p.stem for p in FILES], HELP


def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.S)
    found: dict[str, Any] = {}
    exec(compile(block, "<block>", "exec"), found)
    assert found["loss"].isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_is_valid_in_full_size_and_drawn(path: Path) -> None:
    pytest.importorskip("pygraphviz")
    from graphmodel.visualize import draw
    from tests.visualize.test_gallery import structure

    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0
    assert result.output.startswith(f"{path}: ok"), result.output
    committed = (ROOT / "docs" / "recipes" / f"{path.stem}.svg").read_text("utf-8")
    assert structure(committed) == structure(str(draw(script().picture(path.stem), "svg"))), HELP


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "ibot", "dinov2_linear"])
def test_a_recipe_compiles_to_one_graph(name: str) -> None:
    torch.compiler.reset()
    model, batch = small(name), list(CASES[name].inputs())
    expected = model(*batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(*batch)
    for output, tensor in expected.items():
        torch.testing.assert_close(compiled[output], tensor)
