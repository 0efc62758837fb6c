"""Where a cursor is in a text that is being written: the path of the value or key under it, whatever the text lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphmodel.diagnostics import Collector, CompileError
from graphmodel.spec.document import KeyPath, read_text

MARK = "zqCursorqz"
"""Stands for the word under the cursor while the text is read; no spec has it."""

_BEFORE = re.compile(r"""[^\s,\[\]{}"']*$""")
_AFTER = re.compile(r"""[^\s,\[\]{}"'#]*""")
_LINE_START = re.compile(r"\s*(?:- +)*$")


@dataclass(frozen=True)
class Cursor:
    """One way to read what is under the cursor.

    Attributes:
        path: the path of the value under the cursor, or of the mapping that a key is written in.
        is_key: whether it is a key.
        word: what is written before the cursor.
        start: the offset at which the word starts.
        end: the offset at which it ends, behind the cursor.
        has_colon: whether a colon follows.
        data: the document, without the word.
    """

    path: KeyPath
    is_key: bool
    word: str
    start: int
    end: int
    has_colon: bool
    data: Any


def cursors(text: str, offset: int) -> list[Cursor]:
    """What the cursor may be in: a key, a value, or either (a word on a line of its own). None in a comment."""
    line_start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    before = text[line_start:offset]
    if _in_comment(before):
        return []
    word = _BEFORE.search(before)
    start = offset - len(word[0]) if word is not None else offset
    after = _AFTER.match(text, offset)
    end = after.end() if after is not None else offset
    while end > offset and text[end - 1] == ":":
        end -= 1
    has_colon = re.match(r"[\"']?\s*:(?:\s|$)", text[end:]) is not None
    at_start = _LINE_START.match(text[line_start:start]) is not None
    forms = [MARK] if has_colon else ([f"{MARK}: ", MARK] if at_start or _in_flow(text[:start]) else [MARK])
    found: list[tuple[int, Cursor]] = []
    for form in forms:
        for changes, whole in enumerate(_completed(text, start, end, form)):
            try:
                data = read_text(whole, report=Collector()).data
            except CompileError:
                continue
            place = _find(data, ())
            if place is not None:
                path, is_key = place
                found.append((changes, Cursor(path, is_key, text[start:offset], start, end, has_colon, data)))
                break
    # A form that fits the text as it is rules out those that fit only without what follows.
    least = min((changes for changes, _ in found), default=0)
    return list({(c.path, c.is_key): c for changes, c in found if changes == least}.values())


def _completed(text: str, start: int, end: int, form: str) -> Iterator[str]:
    """The text with the mark, as it is, with brackets closed behind it, and without what follows."""
    yield text[:start] + form + text[end:]
    closing = _closing(text[:start])
    line_end = min((i for c in "\r\n" if (i := text.find(c, end)) >= 0), default=len(text))
    quote = text[start - 1] if start and text[start - 1] in "\"'" else ""
    yield text[:start] + form + quote + closing + text[line_end:]
    yield text[:start] + form + quote + closing


def _scan(text: str) -> tuple[str, bool]:
    """The brackets that are open at the end of a text, and whether it ends in a quoted text or comment."""
    opened: list[str] = []
    quote, comment, previous = "", False, "\n"
    for i, c in enumerate(text):
        if comment:
            comment = c not in "\r\n"
        elif quote:
            if c == quote and not (quote == '"' and text[i - 1] == "\\"):
                quote = ""
        elif c in "\"'" and previous in " \t\r\n[{,:(":
            quote = c
        elif c == "#" and previous in " \t\r\n":
            comment = True
        elif c in "[{":
            opened.append(c)
        elif c in "]}" and opened:
            opened.pop()
        previous = c
    return "".join(opened), comment


def _closing(text: str) -> str:
    return "".join("]" if c == "[" else "}" for c in reversed(_scan(text)[0]))


def _in_flow(text: str) -> bool:
    return bool(_scan(text)[0])


def _in_comment(line: str) -> bool:
    """Whether the end of a line is in a comment; a `#` in quotes that started on an earlier line is taken for one."""
    return _scan(line)[1]


def _find(value: Any, path: KeyPath) -> tuple[KeyPath, bool] | None:
    """Where the mark is; it is taken out."""
    if isinstance(value, dict):
        if MARK in value:
            del value[MARK]
            return path, True
        for key, child in value.items():
            if child == MARK:
                value[key] = None
                return (*path, key), False
            found = _find(child, (*path, key))
            if found is not None:
                return found
    elif isinstance(value, list):
        for i, child in enumerate(value):
            if child == MARK:
                value[i] = ""
                return (*path, i), False
            found = _find(child, (*path, i))
            if found is not None:
                return found
    return None


def place_at(places: Any, file: str, line: int, column: int) -> tuple[KeyPath, bool] | None:
    """The path of the innermost key or value at a place, and whether it is the key.

    Args:
        places: the places of a document.
        file: the file, as its spans name it.
        line: 1-based line.
        column: 1-based column.
    """
    best: tuple[int, KeyPath, bool] | None = None
    for path, place in places.items():
        for span, is_key in ((place.key, True), (place.value, False)):
            if span is None or span.file != file or span.line != line:
                continue
            if span.column <= column <= span.column + span.length and (
                best is None or (span.length, -len(path)) <= (best[0], -len(best[1]))
            ):
                best = span.length, path, is_key
    return best[1:] if best is not None else None
