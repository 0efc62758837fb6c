"""`graphmodel init`: a first spec from options or answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import app
from graphmodel.graph.text import info_text


def outputs(path: Path) -> dict[str, str]:
    """The shapes of a spec's outputs."""
    graph = graphmodel.build_graph(graphmodel.load_spec(path))
    return {name: info_text(graph.nodes[node].info) for o in graph.outputs.values() for name, node in o.parts.items()}


def test_options_make_a_spec_that_compiles(run, tmp_path) -> None:
    path = tmp_path / "new" / "first.yaml"
    made = run("init", path, "--trunk", "torchvision:resnet18", "--size", 64, "--classes", 7, "--format", "json")
    assert json.loads(made.stdout) == {"files": [str(path)]}
    assert graphmodel.load_spec(path).name == "first"
    assert outputs(path) == {"label": "N×7"}


@pytest.mark.slow
def test_without_classes_the_output_is_the_feature_and_timm_models_get_the_size(run, tmp_path) -> None:
    path = tmp_path / "vit.yaml"
    run("init", path, "--trunk", "timm:vit_tiny_patch16_224", "--size", 96, "--classes", 0)
    assert graphmodel.load_spec(path).trunks["trunk"].params == {"img_size": 96}
    assert list(outputs(path)) == ["features"]


def test_what_no_option_answers_is_asked_for_until_it_is_valid(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("graphmodel.cli.init._is_terminal", lambda: True)
    path = tmp_path / "model.yaml"
    answers = "renset\nresnet\nbig\n64\n\n"
    result = CliRunner().invoke(app, ["init", str(path)], input=answers)
    assert result.exit_code == 0, result.output
    assert "did you mean `resnet`?" in result.stderr
    assert "`big` is not a whole number" in result.stderr
    assert outputs(path) == {"label": "N×10"}


def test_without_a_terminal_the_missing_options_are_named(run, tmp_path) -> None:
    result = run("init", tmp_path / "model.yaml", "--size", 64, code=2)
    assert "without a terminal: pass --trunk, --classes" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("trunk", "says"),
    [("renset", "did you mean `resnet`?"), ("timm", "no trunk `timm`"), ("efficientnet", "model_version")],
)
def test_a_trunk_that_cannot_be_built_is_not_written(run, tmp_path, trunk, says) -> None:
    result = run("init", tmp_path / "model.yaml", "--trunk", trunk, "--size", 64, "--classes", 2, code=2)
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_replaced(run, write) -> None:
    path = write("mine")
    assert "it exists" in run("init", path, "--trunk", "resnet", "--size", 64, "--classes", 2, code=2).stderr
    assert path.read_text() == "mine"
