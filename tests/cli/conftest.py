"""The command line, run in this process; and a few spec files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graphmodel.cli import app
from graphmodel.dialects.native.dump import to_yaml

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as they need, wherever the tests run."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run() -> Run:
    """Runs `graphmodel ARGS…`; the result has `exit_code`, `stdout`, `stderr`."""

    def call(*args: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in args], prog_name="graphmodel")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stdout + result.stderr
        return result

    return call


@pytest.fixture(scope="session")
def validate_output() -> Callable[[str, Any], None]:
    """Checks what a command printed as JSON against the published schema."""
    from jsonschema import Draft202012Validator

    schema = json.loads((Path(__file__).parents[2] / "schemas" / "output.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)

    def check(command: str, text: str) -> None:
        validator = Draft202012Validator({"$ref": f"#/$defs/{command}", "$defs": schema["$defs"]})
        validator.validate(json.loads(text))

    return check


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a mapping or a text as a spec file."""

    def file(spec: Any, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        path.write_text(spec if isinstance(spec, str) else to_yaml(spec), "utf-8")
        return path

    return file
