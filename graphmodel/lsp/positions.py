"""Positions: an editor's lines and UTF-16 columns, a finding's lines and characters, and offsets in a text."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import Any

from graphmodel.diagnostics import Span

Position = dict[str, int]
Range = dict[str, Position]

_EDITOR_BREAK = re.compile(r"\r\n|\n|\r")
_YAML_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Text:
    """A text with its lines, as editors count them and as YAML does.

    >>> Text("a: é\\nb: 😀x").position(9)
    {'line': 1, 'character': 5}

    Args:
        text: the text.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def starts(self) -> list[int]:
        """The offset at which each line starts."""
        return [0, *(m.end() for m in _EDITOR_BREAK.finditer(self.text))]

    @cached_property
    def yaml_starts(self) -> list[int]:
        """The same for YAML, which also breaks lines at three characters that editors do not break at."""
        return [0, *(m.end() for m in _YAML_BREAK.finditer(self.text))]

    def line(self, number: int) -> str:
        """A line without its break; empty if there is no such line."""
        if not 0 <= number < len(self.starts):
            return ""
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.text)
        return self.text[self.starts[number] : end].rstrip("\r\n")

    def offset(self, position: Any) -> int:
        """The offset of an editor's position; the nearest one if the text has no such position."""
        number, character = int(position["line"]), int(position["character"])
        if number >= len(self.starts):
            return len(self.text)
        line = self.line(max(number, 0))
        start = self.starts[max(number, 0)]
        if line.isascii():
            return start + min(max(character, 0), len(line))
        units = 0
        for i, c in enumerate(line):
            if units >= character:
                return start + i
            units += 2 if ord(c) > 0xFFFF else 1
        return start + len(line)

    def position(self, offset: int) -> Position:
        """The editor's position of an offset."""
        offset = min(max(offset, 0), len(self.text))
        number = bisect_right(self.starts, offset) - 1
        before = self.text[self.starts[number] : offset]
        units = len(before) if before.isascii() else len(before.encode("utf-16-le")) // 2
        return {"line": number, "character": units}

    def range(self, start: int, end: int) -> Range:
        """The editor's range between two offsets."""
        return {"start": self.position(start), "end": self.position(end)}

    def span_offsets(self, span: Span) -> tuple[int, int]:
        """Where a finding's span starts and ends."""
        starts = self.yaml_starts
        number = min(max(span.line - 1, 0), len(starts) - 1)
        limit = starts[number + 1] if number + 1 < len(starts) else len(self.text)
        start = min(starts[number] + span.column - 1, limit)
        end = min(start + span.length, limit)
        while end > start and self.text[end - 1] in "\r\n\x85\u2028\u2029":
            end -= 1
        return start, end

    def span_range(self, span: Span) -> Range:
        """The editor's range of a finding's span."""
        return self.range(*self.span_offsets(span))

    def changed(self, change: Any) -> Text:
        """The text after one change of an editor: of a range, or as a whole."""
        found = change.get("range")
        if found is None:
            return Text(change["text"])
        start, end = self.offset(found["start"]), self.offset(found["end"])
        return Text(self.text[:start] + change["text"] + self.text[max(start, end) :])


def whole(text: Text) -> Range:
    """The range of a whole text."""
    return text.range(0, len(text.text))


def contains(range_: Range, position: Position) -> bool:
    """Whether a position is inside a range or at one of its ends."""

    def key(p: Position) -> tuple[int, int]:
        return p["line"], p["character"]

    return key(range_["start"]) <= key(position) <= key(range_["end"])


def overlap(a: Range, b: Range) -> bool:
    """Whether two ranges touch."""
    return contains(a, b["start"]) or contains(a, b["end"]) or contains(b, a["start"])
