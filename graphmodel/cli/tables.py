"""Tables that several commands print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer


def parameter_table(rows: Sequence[dict[str, Any]]) -> None:
    """A table of parameters in the form that `--format json` prints."""
    from graphmodel.cli import console

    if not rows:
        typer.echo("no parameters")
        return
    console.print_table(
        ("parameter", "type", "default", "meaning"),
        [(p["name"], p["type"], _default(p), p["description"]) for p in rows],
    )


def _default(parameter: dict[str, Any]) -> str:
    if parameter["required"]:
        return "required"
    value = parameter["default"]
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
