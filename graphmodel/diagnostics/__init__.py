"""Findings with their locations, the error that carries them, and the table of all codes."""

from graphmodel.diagnostics.findings import (
    LIMIT,
    LONGEST_NAME,
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
    json_text,
    more,
    printable,
    to_json,
)

__all__ = [
    "LIMIT",
    "LONGEST_NAME",
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
    "json_text",
    "more",
    "printable",
    "to_json",
]
