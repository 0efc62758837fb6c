"""The command line, run in this process; and a few spec files."""

from __future__ import annotations

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


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a mapping or a text as a spec file."""

    def file(spec: Any, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        path.write_text(spec if isinstance(spec, str) else to_yaml(spec), "utf-8")
        return path

    return file
