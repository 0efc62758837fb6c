"""`graphmodel compile --weights FILE`: the checkpoint is loaded, written on, and what went where is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18
from typer.testing import CliRunner

from graphmodel.cli import app


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n")
    return path


def test_weights_end_up_in_the_artifact(spec: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth"
    state = resnet18().state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, checkpoint)
    target = tmp_path / "out"
    result = CliRunner().invoke(app, ["compile", str(spec), "--weights", str(checkpoint), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "loaded 120 tensors" in result.output
    assert "`module.` removed" in result.output
    assert torch.equal(load_file(target / "weights.safetensors")["trunk.conv1.weight"], state["conv1.weight"])


def test_the_report_is_json_too(spec: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({k: v for k, v in resnet18().state_dict().items() if not k.startswith("layer4")}, checkpoint)
    refused = CliRunner().invoke(app, ["compile", str(spec), "--weights", str(checkpoint), "--format", "json"])
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["diagnostics"][0]["code"] == "GM512"
    taken = CliRunner().invoke(
        app, ["compile", str(spec), "--weights", str(checkpoint), "--partial", "--format", "json"]
    )
    weights = json.loads(taken.stdout)["weights"]
    assert weights["matched"]["trunk.conv1.weight"] == "conv1.weight"
    assert any(key.startswith("trunk.layer4") for key in weights["missing"])
