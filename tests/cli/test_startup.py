"""What commands import: nothing heavy for help and malformed files, and only what a spec names otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "timm", "networkx", "rich", "safetensors", "huggingface_hub"}
PROGRAM = """
import json, sys
from graphmodel.cli import app
try:
    app(sys.argv[1:], prog_name="graphmodel")
except SystemExit as error:
    print(json.dumps([error.code, sorted(sys.modules)]))
"""


def run(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command and the modules that it imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("check", "--help"), ("trunks", "--help")])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code, modules = run(*arguments)
    assert code == 0
    assert not modules & HEAVY
    assert len(modules) < 400  # each takes about half a millisecond


@pytest.mark.parametrize(
    "text",
    [
        "trunk: {name: resnet\n",  # not YAML
        "trunk: {name: resnet}\ntrunk: {name: regnet}\ninputs: !!tag {x: [3, 64, 64]}\n",  # a tag
    ],
)
def test_a_malformed_file_imports_nothing_heavy(tmp_path: Path, text: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    code, modules = run("check", str(spec))
    assert code == 1
    assert not modules & HEAVY
    assert len(modules) < 400


def test_a_resnet_imports_no_timm_and_no_other_family(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "trunk: {name: resnet, depth: 18, width_multiplier: 0.25}\ninputs: {x: [3, 64, 64]}\nheads: {h: {mlp: {dims: [auto, 2]}}}\n"
    )
    code, modules = run("check", str(spec))
    assert code == 0
    assert "timm" not in modules
    assert "graphmodel.components.trunks.regnet" not in modules
    assert "graphmodel.components.heads.swav_head" not in modules
