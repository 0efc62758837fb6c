"""Diagnostics for machines: JSON, GitHub's annotations, SARIF 2.1.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphmodel.diagnostics import Diagnostic, json_text, printable, to_json

_GITHUB = {"error": "error", "warning": "warning", "note": "notice"}


def render(diagnostics: Sequence[Diagnostic], form: str) -> str:
    """The findings as one text in the given form."""
    if form == "github":
        return "\n".join(map(github, diagnostics))
    if form == "sarif":
        return json_text(sarif(diagnostics))
    return to_json(diagnostics)


def github(diagnostic: Diagnostic) -> str:
    """One workflow command; GitHub shows it at the line of the pull request."""
    span = diagnostic.span
    place = f"file={_property(printable(span.file))},line={span.line},col={span.column}," if span else ""
    text = printable(diagnostic.message) + (f"\nhelp: {printable(diagnostic.help)}" if diagnostic.help else "")
    return f"::{_GITHUB[diagnostic.severity]} {place}title={diagnostic.code}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def sarif(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """A SARIF log with one run."""
    from graphmodel import __version__
    from graphmodel.diagnostics.codes import CODES

    codes = list(dict.fromkeys(d.code for d in diagnostics))
    rules = [
        {"id": c, "shortDescription": {"text": CODES[c].title}, "fullDescription": {"text": CODES[c].meaning}}
        if c in CODES
        else {"id": c}
        for c in codes
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "graphmodel", "version": __version__, "rules": rules}},
                "results": [_result(d) for d in diagnostics],
            }
        ],
    }


def _result(diagnostic: Diagnostic) -> dict[str, Any]:
    text = diagnostic.message + (f"\nhelp: {diagnostic.help}" if diagnostic.help else "")
    out: dict[str, Any] = {"ruleId": diagnostic.code, "level": diagnostic.severity, "message": {"text": text}}
    span = diagnostic.span
    if span is not None:
        region = {"startLine": span.line, "startColumn": span.column, "endColumn": span.column + span.length}
        out["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": span.file}, "region": region}}]
    return out
