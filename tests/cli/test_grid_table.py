"""`graphmodel compile` and pictures show a grid as one row and one box, and every head if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import app
from graphmodel.graph_file import graph_document
from graphmodel.visualize import Options
from graphmodel.visualize.compose import compose

SPEC = """
inputs: {images: [3, 64, 64]}
trunk: {name: resnet, depth: 18, freeze: true}
heads: {label: {mlp: {dims: [auto, 10]}}}
grid:
  probe:
    head: {mlp: {dims: [auto, 10]}}
    layers: [res4, res5]
    pool: {adaptive_avg_pool2d: 1}
    flatten: true
    lr: [0.1, 0.01, 0.001]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, "utf-8")
    return path


def rows(spec: Path, *options: str) -> list[list[str]]:
    result = CliRunner().invoke(app, ["compile", str(spec), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.output.splitlines() if "probe" in line or "label" in line]


def test_a_grid_is_one_row(spec: Path) -> None:
    label, grid = rows(spec)
    assert label[:2] == ["label", "heads.label"]
    assert grid[:5] == ["probe", "(6", "heads)", "heads.probe_*", "N×10"]
    assert grid[5:7] == ["23.1", "k"]  # 3 × (256 + 1 + 512 + 1) × 10 parameters


def test_every_head_is_a_row_if_asked(spec: Path) -> None:
    names = [row[0] for row in rows(spec, "--expand")]
    assert names[1:] == [f"probe_{layer}_lr_{lr}" for layer in ("res4", "res5") for lr in ("0_1", "0_01", "0_001")]


def test_json_has_every_head_and_its_grid(spec: Path) -> None:
    result = CliRunner().invoke(app, ["compile", str(spec), "--format", "json"])
    nodes = {node["name"]: node["grid"] for node in json.loads(result.output)["nodes"]}
    assert nodes["label"] is None
    assert [grid for name, grid in nodes.items() if name.startswith("probe_")] == ["probe"] * 6


def test_a_grid_is_one_box(spec: Path) -> None:
    graph = graphmodel.compile(spec, device="meta").model_graph
    (box,) = (box for box in compose(graph, Options()).boxes if box.title == "probe")
    assert (box.count, box.lines[0]) == (6, "mlp · 2 layers x 3 lr")
    assert len([box for box in compose(graph, Options(stack=0)).boxes if box.id.startswith("head:heads.probe_")]) == 6


def test_graph_json_has_the_settings_of_heads(spec: Path) -> None:
    settings = graph_document(graphmodel.compile(spec, device="meta"))["head_settings"]
    assert list(settings) == [n for n in settings if n.startswith("probe_")]
    assert settings["probe_res5_lr_0_01"] == {"lr": 0.01, "grid": "probe", "labels": {"layers": "res5", "lr": "0_01"}}


def test_a_profile_has_one_row_for_a_grid_and_json_has_every_head(spec: Path) -> None:
    def profile(*options: str) -> str:
        result = CliRunner().invoke(app, ["profile", str(spec), *options], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    (row,) = (line.split() for line in profile().splitlines() if "probe" in line)
    assert row[:5] == ["probe", "(6", "heads)", "heads.probe_*", "N×10"]
    stages = [s for s in json.loads(profile("--format", "json"))["stages"] if s["grid"] == "probe"]
    assert len(stages) == 6
    assert "23.1 k" in " ".join(row)
    assert sum(s["parameters"] for s in stages) == 3 * (256 + 1 + 512 + 1) * 10
    assert len([line for line in profile("--expand").splitlines() if "heads.probe_" in line]) == 6
