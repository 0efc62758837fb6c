"""A converted file compiles to the graph and the numbers of the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import graphmodel
from graphmodel.api import build_graph
from graphmodel.cli import app
from graphmodel.dialects.convert import convert
from tests.conftest import EXAMPLES
from tests.parity.recipe import CASES, arguments, load, state_dict

FILES = sorted((EXAMPLES / "vissl").glob("*.yaml"))


def calls(source: Any) -> list[tuple[object, ...]]:
    graph = build_graph(graphmodel.load_spec(source))
    return [(n.kind, n.call, str(n.target), str(n.info), n.component, n.facts) for n in graph.nodes.values()]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_twin_has_the_same_graph_outputs_and_freezing(path: Path, tmp_path: Path) -> None:
    spec = graphmodel.load_spec(path)
    twin = tmp_path / "twin.yaml"
    twin.write_text(convert(spec))
    other = graphmodel.load_spec(twin)
    assert other.dialect == "native"
    assert calls(twin) == calls(path)
    assert (other.outputs, other.freeze, other.head_defaults) == (spec.outputs, spec.freeze, spec.head_defaults)


@pytest.mark.slow
def test_the_twin_pools_maps_with_channels_last_as_vissl_does(tmp_path: Path) -> None:
    vit = {"IMAGE_SIZE": 32, "PATCH_SIZE": 16, "NUM_LAYERS": 1, "NUM_HEADS": 1, "HIDDEN_DIM": 8, "MLP_DIM": 8}
    trunk = {"NAME": "vision_transformer", "VISION_TRANSFORMERS": vit}
    pools = [["lastMAP", ["AvgPool2d", [[2, 2], 2, 0]]], ["lastMAP", ["AdaptiveAvgPool2d", [[1, 1]]]]]
    extractor = {"EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True, "LINEAR_EVAL_FEAT_POOL_OPS_MAP": pools}
    model = {"TRUNK": trunk, "FEATURE_EVAL_SETTINGS": {**extractor, "EXTRACT_TRUNK_FEATURES_ONLY": True}}
    spec = graphmodel.load_spec({"MODEL": model}, inputs={"images": (3, 32, 32)})
    twin = tmp_path / "twin.yaml"
    twin.write_text(convert(spec))
    assert twin.read_text().count("any_layout: true") == 2
    assert calls(twin) == [
        (n.kind, n.call, str(n.target), str(n.info), n.component, n.facts) for n in build_graph(spec).nodes.values()
    ]


def test_each_part_names_its_line() -> None:
    text = convert(graphmodel.load_spec(EXAMPLES / "vissl" / "head_linear_eval.yaml"))
    lines = (EXAMPLES / "vissl" / "head_linear_eval.yaml").read_text().splitlines()
    commented = [line for line in text.splitlines() if "# head_linear_eval.yaml:" in line]
    assert len(commented) >= 10
    for line in commented:
        if "depth:" in line:
            assert "DEPTH: 50" in lines[int(line.rsplit(":", 1)[1]) - 1]
            break
    else:
        raise AssertionError("the depth has no comment")
    assert yaml.safe_load(text)["trunk"]["depth"] == 50


@pytest.mark.parametrize("name", ["rn18_dup_order", "head_mlp_variants", "rn18_swav_3proto"])
def test_the_twin_takes_vissls_weights_and_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    case = load(name)
    shapes, tensors = arguments(case)
    spec = graphmodel.load_spec({"MODEL": case["model_diff"]}, inputs=shapes)
    (tmp_path / "twin.yaml").write_text(convert(spec))
    ours, twin = (graphmodel.compile(s, seed=0).eval() for s in (spec, tmp_path / "twin.yaml"))
    for module in (ours, twin):
        graphmodel.load_weights(module, state_dict(case), dialect="vissl")
    with torch.no_grad():
        a, b = ours(**tensors), twin(**tensors)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_command_writes_a_file_that_the_compiler_reads(tmp_path: Path) -> None:
    target = tmp_path / "native.yaml"
    result = CliRunner().invoke(app, ["convert", str(EXAMPLES / "vissl" / "multi_input.yaml"), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert graphmodel.load_spec(target).outputs == (("head0", "head1"), "head2")
    assert [p.name for p in tmp_path.iterdir()] == ["native.yaml"]
    told = CliRunner().invoke(
        app, ["convert", str(EXAMPLES / "vissl" / "multi_input.yaml"), "-o", str(target), "--format", "json"]
    )
    assert json.loads(told.stdout) == {"files": [str(target)]}
    text = target.read_text()
    onto_itself = CliRunner().invoke(app, ["convert", str(target), "-o", str(target)])
    assert (onto_itself.exit_code, "it is the source" in onto_itself.output) == (2, True)
    assert target.read_text() == text
    broken = CliRunner().invoke(app, ["convert", str(tmp_path / "nowhere.yaml"), "-o", str(target)])
    assert broken.exit_code == 2
    assert len(list(CASES.glob("*.json"))) == 58
