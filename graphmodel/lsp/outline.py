"""The outline of a document, and what can be folded in it, even while the text is not valid YAML."""

from __future__ import annotations

import re
from typing import Any

from graphmodel.diagnostics import Collector, CompileError
from graphmodel.lsp.positions import Text
from graphmodel.spec.document import Document, KeyPath, read_text

_BLANK = re.compile(r"\s*(?:#.*)?$")

_MODULE, _CLASS, _PROPERTY, _FIELD, _FUNCTION, _VARIABLE, _KEY = 2, 5, 7, 8, 12, 13, 20
_KINDS = {
    "inputs": _VARIABLE,
    "trunk": _MODULE,
    "trunks": _MODULE,
    "heads": _CLASS,
    "mapping": _FUNCTION,
    "outputs": _FIELD,
}

DEPTH = 4
"""How many levels an outline shows; in VISSL's files what matters lies deeper."""


def symbols(text: Text) -> list[dict[str, Any]]:
    """The keys of a document as a tree; none if it is not valid YAML."""
    try:
        document = read_text(text.text, "text", report=Collector())
    except CompileError:
        return []
    depth = DEPTH + 2 * ("config" in document.data or "MODEL" in document.data)
    return _children(document.data, (), document, text, depth)


def _children(value: Any, path: KeyPath, document: Document, text: Text, depth: int) -> list[dict[str, Any]]:
    if not isinstance(value, dict) or depth == 0:
        return []
    found = []
    for key, child in value.items():
        here = (*path, key)
        place = document.places.get(here)
        if place is None or place.key is None:
            continue
        start, end = text.span_offsets(place.key)
        below = _children(child, here, document, text, depth - 1)
        last = _end(child, here, document, text, end)
        symbol: dict[str, Any] = {
            "name": str(key) or "(empty)",
            "kind": _KINDS.get(str(path[0] if path else key), _PROPERTY) if len(here) <= 2 else _KEY,
            "range": text.range(start, max(last, end)),
            "selectionRange": text.range(start, end),
        }
        if not isinstance(child, (dict, list)) and child is not None:
            symbol["detail"] = str(child)[:80]
        if below:
            symbol["children"] = below
        found.append(symbol)
    return found


def _end(value: Any, path: KeyPath, document: Document, text: Text, end: int) -> int:
    """Where a value ends: the end of the last scalar in it."""
    place = document.places.get(path)
    if place is not None:
        end = max(end, text.span_offsets(place.value)[1])
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        end = max(end, _end(child, (*path, key), document, text, end))
    return end


def folds(text: Text) -> list[dict[str, Any]]:
    """The ranges of lines that can be folded: what is indented below a line, brackets, and runs of comments."""
    lines = [text.line(i) for i in range(len(text.starts))]
    found = [*_indented(lines), *_comments(lines)]
    unique = {(f["startLine"], f["endLine"]): f for f in found}
    return [unique[key] for key in sorted(unique)]


def _indented(lines: list[str]) -> list[dict[str, Any]]:
    found = []
    open_at: list[tuple[int, int]] = []
    last = 0
    for number, line in [*enumerate(lines), (len(lines), "x")]:
        if _BLANK.match(line) and number < len(lines):
            continue
        indent = len(line) - len(line.lstrip(" "))
        while open_at and indent <= open_at[-1][0]:
            _, start = open_at.pop()
            # A bracket that closes on a line of its own belongs to what it closes.
            end = number if number < len(lines) and line.strip()[:1] in ("]", "}") else last
            if end > start:
                found.append({"startLine": start, "endLine": end})
        open_at.append((indent, number))
        last = number
    return found


def _comments(lines: list[str]) -> list[dict[str, Any]]:
    found = []
    start: int | None = None
    for number, line in [*enumerate(lines), (len(lines), "")]:
        if line.lstrip().startswith("#"):
            start = number if start is None else start
        elif start is not None:
            if number - 1 > start:
                found.append({"startLine": start, "endLine": number - 1, "kind": "comment"})
            start = None
    return found
