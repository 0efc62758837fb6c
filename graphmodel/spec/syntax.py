"""What is wrong with text that is not valid YAML, where the author looks for it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from graphmodel.diagnostics import Span


def _without_colon(mark: Any, lines: list[str]) -> int | None:
    """The line above a key on its own line that reads like a key without its colon; None if there is none."""
    if mark is None or mark.line >= len(lines) or ":" in lines[mark.line][: mark.column]:
        return None
    above = next((i for i in range(mark.line - 1, -1, -1) if lines[i].split(" #")[0].strip()), None)
    text = lines[above].split(" #")[0].strip() if above is not None else ""
    return above if re.fullmatch(r"[A-Za-z_][\w.]*( +[^:]+)?", text) else None


def syntax_error(error: yaml.MarkedYAMLError, name: str, lines: list[str]) -> tuple[str, Span, str]:
    """The message, place and help of an error of the YAML parser.

    Args:
        error: what the parser raised.
        name: the file.
        lines: its lines.
    """
    mark = error.problem_mark or error.context_mark
    if mark is not None and mark.line >= len(lines) and error.context_mark is not None:
        mark = error.context_mark  # at the end of the file: where the unclosed bracket or quote was opened
    problem = (error.problem or "unreadable").strip()
    if problem == "could not find expected ':'" and error.context_mark is not None:
        mark = error.context_mark  # the key: the parser notices on the next line
        end = len(lines[mark.line].rstrip()) if mark.line < len(lines) else mark.column + 1
        span = Span(name, mark.line + 1, mark.column + 1, max(1, end - mark.column), lines[mark.line])
        key = lines[mark.line][mark.column : end]
        return "YAML syntax: a key without a colon", span, f"write `{key.split(' ')[0][:60]}:`, or quote the text"
    above = _without_colon(mark, lines) if problem.startswith("mapping values are not allowed") else None
    if above is not None:
        text = lines[above].split(" #")[0].strip()
        key, _, value = text.partition(" ")
        span = Span(name, above + 1, lines[above].index(text) + 1, len(text), lines[above])
        return "YAML syntax: a key without a colon", span, f"write `{key[:60]}:{' ' * bool(value)}{value.strip()[:60]}`"
    message = f"YAML syntax: {problem}" + (f" {error.context}" if error.context else "")
    hint = "check brackets, quotes, colons and indentation at and just above this line"
    if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        message, hint = "YAML syntax: a tab", "YAML is indented with spaces; replace the tab"
    elif "alias" in problem:
        hint = "an alias `*name` needs an anchor `&name` before it; quote the text if the star is meant literally"
    if mark is None:
        return message, Span(name, 1, 1), hint
    line = min(mark.line, max(len(lines) - 1, 0))
    text = lines[line] if lines else ""
    return message, Span(name, line + 1, mark.column + 1, 1, text), hint
