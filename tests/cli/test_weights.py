"""`graphmodel compile --weights FILE`: the checkpoint is loaded, written on, and what went where is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from graphmodel.cli import app
from tests.reference import NarrowResNet


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n")
    return path


def test_weights_end_up_in_the_artifact(spec: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth"
    state = NarrowResNet().state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, checkpoint)
    target = tmp_path / "out"
    result = CliRunner().invoke(app, ["compile", str(spec), "--weights", str(checkpoint), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "loaded 120 tensors" in result.output
    assert "`module.` removed" in result.output
    assert torch.equal(load_file(target / "weights.safetensors")["trunk.conv1.weight"], state["conv1.weight"])


def test_the_report_is_json_too(spec: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({k: v for k, v in NarrowResNet().state_dict().items() if not k.startswith("layer4")}, checkpoint)
    refused = CliRunner().invoke(app, ["compile", str(spec), "--weights", str(checkpoint), "--format", "json"])
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["diagnostics"][0]["code"] == "GM512"
    taken = CliRunner().invoke(
        app, ["compile", str(spec), "--weights", str(checkpoint), "--partial", "--format", "json"]
    )
    weights = json.loads(taken.stdout)["weights"]
    assert weights["matched"]["trunk.conv1.weight"] == "conv1.weight"
    assert any(key.startswith("trunk.layer4") for key in weights["missing"])


def test_a_network_is_chosen_by_name(spec: Path, tmp_path: Path) -> None:
    checkpoint, target = tmp_path / "checkpoint.pth", tmp_path / "out"
    student, teacher = NarrowResNet().state_dict(), NarrowResNet().state_dict()
    torch.save({"student": student, "teacher": teacher}, checkpoint)
    command = ["compile", str(spec), "--weights", str(checkpoint)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.output.count("warning[GM514]") == 1
    assert "--weights-network student" in result.output
    assert "UserWarning" not in result.output
    data = json.loads(CliRunner().invoke(app, [*command, "--format", "json"]).stdout)
    assert "GM514" in [d["code"] for d in data["diagnostics"]]
    result = CliRunner().invoke(app, [*command, "--weights-network", "student", "-o", str(target)])
    assert "GM514" not in result.output
    assert torch.equal(load_file(target / "weights.safetensors")["trunk.conv1.weight"], student["conv1.weight"])
    result = CliRunner().invoke(app, [*command, "--weights-network", "student", "--weights-network", "teacher"])
    assert result.exit_code == 2
    assert "NAME=TRUNK" in result.output


def test_networks_fill_trunks(tmp_path: Path) -> None:
    spec, checkpoint, target = tmp_path / "spec.yaml", tmp_path / "checkpoint.pth", tmp_path / "out"
    spec.write_text(
        "inputs: {images: [3, 64, 64]}\n"
        "trunks: {a: {name: resnet, depth: 18, width_multiplier: 0.25}, b: {name: resnet, depth: 18, width_multiplier: 0.25}}\n"
        "mapping: {images: {a.flatten: , b.flatten: }}\n"
    )
    one, two = NarrowResNet().state_dict(), NarrowResNet().state_dict()
    torch.save({"one": one, "two": two}, checkpoint)
    command = ["compile", str(spec), "--weights", str(checkpoint), "-o", str(target)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "GM514" in refused.output
    taken = CliRunner().invoke(app, [*command, "--weights-network", "one=b", "--weights-network", "two=a"])
    assert taken.exit_code == 0, taken.output
    written = load_file(target / "weights.safetensors")
    assert torch.equal(written["trunks.a.conv1.weight"], two["conv1.weight"])
    assert torch.equal(written["trunks.b.conv1.weight"], one["conv1.weight"])


def test_foreign_names_match_by_order(spec: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth"
    state = NarrowResNet().state_dict()
    torch.save({k.replace("layer", "stage_").replace("conv", "c_"): v for k, v in state.items()}, checkpoint)
    command = ["compile", str(spec), "--weights", str(checkpoint)]
    assert "--weights-match order" in CliRunner().invoke(app, command).output
    result = CliRunner().invoke(app, [*command, "--weights-match", "order"])
    assert result.exit_code == 0, result.output
    assert "trunk.layer1.0.conv1.weight <- stage_1.0.c_1.weight" in result.output
