"""What commands print as JSON follows the published schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphmodel.cli import app
from tests.conftest import EXAMPLES, ROOT

SPEC = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
    "heads": {"label": {"mlp": {"dims": ["auto", 3]}}},
    "checkpoint": ["relu"],
}
VISSL = EXAMPLES / "vissl" / "head_multi_task.yaml"
CASES: dict[str, list[Any]] = {
    "check": ["SPEC"],
    "compile": ["SPEC", "-o", "DIR"],
    "show": ["SPEC"],
    "show, resolved": ["SPEC", "--resolved"],
    "convert": [VISSL],
    "convert to a file": [VISSL, "-o", "native.yaml"],
    "convert, compared": ["SPEC", "--check"],
    "explain": ["SPEC"],
    "explain a code": ["GM201", "GM304"],
    "profile": ["SPEC"],
    "visualize": ["SPEC"],
    "visualize to a file": ["SPEC", "-o", "picture.mmd"],
    "trunks": [],
    "trunks of a library": ["torchvision:res*"],
    "trunks, one": ["resnet"],
    "trunks without a parameter": ["efficientnet"],
    "heads": [],
    "heads, one": ["mlp"],
    "schema": [],
    "schema, one": ["vissl"],
    "schema to files": ["native", "-o", "DIR"],
    "examples": [],
    "examples, one": ["native/pirl", "-o", "DIR"],
    "init": ["new.yaml", "--trunk", "resnet", "--size", 32, "--classes", 2],
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_follow_the_schema(
    run: Any, write: Any, validate_output: Callable[[str, str], None], tmp_path: Path, monkeypatch: Any, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command = case.partition(",")[0].partition(" ")[0]
    given = [write(SPEC) if item == "SPEC" else tmp_path / "new" if item == "DIR" else item for item in CASES[case]]
    validate_output(command, run(command, *given, "--format", "json").stdout)


def test_differences_follow_the_schema(run: Any, write: Any, validate_output: Callable[[str, str], None]) -> None:
    one, other = write(SPEC), write({**SPEC, "returns": "tuple"}, "other.yaml")
    validate_output("diff", run("diff", one, other, "--format", "json", code=1).stdout)


def test_errors_follow_the_schema(run: Any, write: Any, validate_output: Callable[[str, str], None]) -> None:
    validate_output("error", run("check", write("trunk: {nam: resnet}\n"), "--format", "json", code=1).stdout)
    validate_output("error", run("compile", "nothing.yaml", "--format", "json", code=2).stdout)


def test_weights_follow_the_schema(run: Any, write: Any, validate_output: Any, tmp_path: Path) -> None:
    spec = write(SPEC)
    run("compile", spec, "-o", tmp_path / "made")
    weights = tmp_path / "made" / "weights.safetensors"
    validate_output("compile", run("compile", spec, "--weights", weights, "--format", "json").stdout)


@pytest.mark.slow
def test_exports_follow_the_schema(run: Any, write: Any, validate_output: Any, tmp_path: Path) -> None:
    validate_output("export", run("export", write(SPEC), "-o", tmp_path / "m.pt2", "--format", "json").stdout)


def test_the_schema_has_every_command_and_is_printed(run: Any) -> None:
    schema = json.loads((ROOT / "schemas" / "output.schema.json").read_text("utf-8"))
    from typer.main import get_command

    commands = get_command(app).commands.keys() - {"lsp"}  # type: ignore[attr-defined]  # which speaks a protocol
    assert {reference["$ref"].rpartition("/")[2] for reference in schema["anyOf"]} == {*commands, "error"}
    assert json.loads(run("schema", "output").stdout) == schema
