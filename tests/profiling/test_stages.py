"""Profiles count each stage on the meta device and measure it if asked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import graphmodel
from graphmodel.passes.training_step import simulate_step
from graphmodel.profiling.chart import draw_chart
from graphmodel.profiling.flops import count_flops


def test_a_spec_is_profiled_without_weights(small: dict[str, Any]) -> None:
    found = graphmodel.profile(small, batch=4)
    model = graphmodel.compile(small, device="meta")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert sum(stage.parameters for stage in found.stages) == found.parameters
    assert found.flops == 4 * sum(count_flops(model.model_graph).values())
    assert found.peak == simulate_step(model.model_graph, 4).total
    assert found.measured_peak is None
    assert {stage.forward for stage in found.stages} == {None}
    most = found.sorted("activations")
    assert most[0].name == "layer1"
    assert [stage.activations for stage in most] == sorted((s.activations for s in found.stages), reverse=True)


def test_shared_parameters_are_counted_once(two_inputs: dict[str, Any]) -> None:
    found = graphmodel.profile(two_inputs, batch=2)
    assert sum(stage.parameters for stage in found.stages) == found.parameters
    passes = [stage for stage in found.stages if stage.calls == "trunk.layer1"]
    assert [bool(stage.parameters) for stage in passes] == [True, False]
    assert all(stage.flops for stage in passes)


def test_recomputed_stages_are_marked_and_kept_out_of_what_stays(small: dict[str, Any]) -> None:
    plain, found = (graphmodel.profile({**small, "checkpoint": c}, batch=4) for c in (0, ["layer1"]))
    assert [stage.name for stage in found.stages if stage.recomputed] == ["layer1"]
    assert found.activations < plain.activations


def test_each_block_of_a_transformer_is_a_stage() -> None:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "vision_transformer", **sizes},
        "mapping": {"images": {"lastCLS": None}},
    }
    for given in (spec, {**spec, "checkpoint": ["blocks.1"]}):
        found = graphmodel.profile(given, batch=2)
        blocks = [stage for stage in found.stages if "blocks" in stage.calls]
        assert [stage.name for stage in blocks] == [f"blocks_{i}" for i in range(3)]
        assert [stage.calls for stage in blocks] == [f"trunk.blocks.{i}" for i in range(3)]
        assert len({(stage.flops, stage.parameters) for stage in blocks}) == 1
        assert sum(stage.parameters for stage in found.stages) == found.parameters


@pytest.mark.slow
def test_a_module_is_measured_and_left_as_it_was(small: dict[str, Any]) -> None:
    module = graphmodel.compile({**small, "checkpoint": ["layer2"]}, seed=0).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    found = graphmodel.profile(module, batch=2, measure=True)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part.training for part in module.modules())
    assert all(p.grad is None for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert found.measured_peak == pytest.approx(found.peak, rel=0.01)
    stages = {stage.name: stage for stage in found.stages}
    for name in ("conv1", "layer1", "layer2", "layer4", "head"):
        assert (stages[name].forward or 0) > 0, name
        assert (stages[name].backward or 0) > 0, name
    assert found.forward is not None
    assert 0.5 * found.forward < sum(s.forward or 0 for s in found.stages) <= 1.05 * found.forward


def test_a_batch_that_cannot_be_run_is_a_diagnostic() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {"a": {"mlp": {"dims": ["auto", 4, 2], "use_bn": True}}},
    }
    for batch in (1, 0):
        with pytest.raises(graphmodel.CompileError) as error:
            graphmodel.profile(spec, batch=batch)
        assert [d.code for d in error.value.diagnostics] == ["GM555"]


def test_the_chart_has_a_row_for_each_stage(small: dict[str, Any]) -> None:
    found = graphmodel.profile(small, batch=2)
    svg = draw_chart(found, found.sorted("flops"), "svg")
    assert isinstance(svg, str)
    root = ElementTree.fromstring(svg)
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {stage.name for stage in found.stages} <= set(texts)
    assert {"FLOPs", "activations", "parameters"} <= set(texts)
    width = float(root.get("width", "0"))
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(rect.get("x", "0")) + float(rect.get("width", "0")) <= width
    png = draw_chart(found, found.stages, "png")
    assert isinstance(png, bytes)
    assert Image.open(io.BytesIO(png)).size == (round(2 * width), round(2 * float(root.get("height", "0"))))


def test_the_command_prints_a_sorted_table_and_writes_a_chart(small: dict[str, Any], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from graphmodel.cli import app
    from graphmodel.dialects.native.dump import to_yaml

    (tmp_path / "spec.yaml").write_text(to_yaml(small), "utf-8")
    result = CliRunner().invoke(app, ["profile", "spec.yaml", "--batch", "4", "-o", "stages.svg"])
    assert result.exit_code == 0, result.output
    rows = [line.split()[0] for line in result.stdout.splitlines() if "trunk.layer" in line]
    assert rows == ["layer1", "layer2", "layer3", "layer4"]
    assert (tmp_path / "stages.svg").read_text("utf-8").startswith("<svg")
    data = json.loads(CliRunner().invoke(app, ["profile", "spec.yaml", "--format", "json"]).stdout)
    assert (data["batch"], data["ok"]) == (2, True)
    assert CliRunner().invoke(app, ["profile", "spec.yaml", "-o", "stages.pdf"]).exit_code == 1
    assert CliRunner().invoke(app, ["profile", "spec.yaml", "--sort", "time"]).exit_code == 2


@pytest.mark.parametrize(("device", "text"), [("nope", "not a valid device"), ("meta", "on the meta device")])
def test_a_device_that_measures_nothing_is_refused(device: str, text: str) -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
    with pytest.raises(graphmodel.CompileError, match=text) as caught:
        graphmodel.profile(spec, measure=True, device=device)
    assert [d.code for d in caught.value.diagnostics] == ["GM555"]
