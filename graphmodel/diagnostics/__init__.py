"""Findings with their places, the error that carries them, and the table of all codes."""

from graphmodel.diagnostics.findings import (
    Collector,
    CompileError,
    Diagnostic,
    Severity,
    Span,
    choices_help,
    did_you_mean,
    fail,
    first_line,
    in_source_order,
    to_json,
)

__all__ = [
    "Collector",
    "CompileError",
    "Diagnostic",
    "Severity",
    "Span",
    "choices_help",
    "did_you_mean",
    "fail",
    "first_line",
    "in_source_order",
    "to_json",
]
