"""Formatting that changes spaces only: comments and line breaks of the author stay, and so does the data.

The result is read again, and thrown away if its data or its comments are not those of the original.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import yaml

from graphmodel.diagnostics import Collector, CompileError
from graphmodel.lsp.positions import Text, whole
from graphmodel.spec.document import read_text

_MOST_BLANK = 1
"""How many blank lines in a row are kept."""


def format_text(text: str) -> str | None:
    """The formatted text; None if it cannot be read, or would not mean the same.

    Trailing spaces go, and blank lines that follow another and those at the ends. Inside of brackets there is one space
    after a comma and after a colon, and none beside the brackets. One space before a comment becomes two.

    >>> format_text("a: [ 1,2 ]  \\n\\n\\nb: { x: 1 }# not a comment".replace("# not", " # not"))
    'a: [1, 2]\\n\\nb: {x: 1}  # not a comment\\n'
    """
    try:
        data = read_text(text, report=Collector()).data
        tokens = list(yaml.scan(text, Loader=yaml.SafeLoader))
    except (CompileError, yaml.YAMLError):
        return None
    if "\t" in text or "\x85" in text or "\u2028" in text or "\u2029" in text:
        return None
    fixed = _fixed(tokens)
    changed = _spaced(text, tokens, fixed)
    result = _lines(changed, text)
    try:
        same = read_text(result, report=Collector()).data == data
    except CompileError:
        return None
    return result if same and _comments(result) == _comments(text) else None


def _fixed(tokens: list[Any]) -> list[tuple[int, int]]:
    """The ranges of scalars: nothing in them changes."""
    return [
        (t.start_mark.index, t.end_mark.index)
        for t in tokens
        if isinstance(t, yaml.ScalarToken)
        and (t.style in ("|", ">") or t.start_mark.line != t.end_mark.line or t.style)
    ]


def _spaced(text: str, tokens: list[Any], fixed: list[tuple[int, int]]) -> str:
    """The text with single spaces inside of brackets, where both neighbours are on one line."""
    real = [t for t in tokens if t.start_mark.index < t.end_mark.index]
    depth = 0
    edits: list[tuple[int, int, str]] = []
    for left, right in pairwise(real):
        opens = isinstance(left, (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken))
        closes = isinstance(right, (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken))
        depth += opens
        depth -= isinstance(left, (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken))
        start, end = left.end_mark.index, right.start_mark.index
        gap = text[start:end]
        if depth <= 0 or gap.strip(" ") or "\n" in gap:
            continue
        if opens or closes or isinstance(right, (yaml.FlowEntryToken, yaml.ValueToken)):
            wanted = ""
            if isinstance(right, yaml.ValueToken) and text[start - 1 : start] not in ('"', "'"):
                wanted = gap if gap and text[start - 1 : start] in "*&" else ""
        elif isinstance(left, (yaml.FlowEntryToken, yaml.ValueToken)):
            wanted = " "
        else:
            continue
        edits.append((start, end, wanted))
    for start, end, wanted in reversed(edits):
        text = text[:start] + wanted + text[end:]
    return text


def _lines(text: str, original: str) -> str:
    """The text without trailing spaces and runs of blank lines; lines of multi-line scalars stay as they are."""
    newline = "\r\n" if "\r\n" in original else "\n"
    lines = re.split(r"\r\n|\n|\r", text)
    protected = _scalar_lines(text)
    out: list[str] = []
    blank = 0
    for number, line in enumerate(lines):
        if number in protected:
            out.append(line)
            blank = 0
            continue
        stripped = line.rstrip()
        if not stripped:
            blank += 1
            if blank <= _MOST_BLANK and out:
                out.append("")
            continue
        blank = 0
        out.append(_comment_spaced(stripped))
    while out and not out[-1]:
        out.pop()
    return newline.join(out) + newline


def _scalar_lines(text: str) -> set[int]:
    """The lines of scalars that span several."""
    found: set[int] = set()
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken) and token.start_mark.line != token.end_mark.line:
            found |= set(range(token.start_mark.line, token.end_mark.line + 1))
    return found


def _comment_spaced(line: str) -> str:
    """Two spaces before a comment that follows something on its line."""
    at = _comment_at(line)
    before = line[:at].rstrip() if at >= 0 else ""
    return f"{before}  {line[at:]}" if before and len(line[:at]) - len(before) == 1 else line


def _comment_at(line: str) -> int:
    """Where a comment starts in a line that has no part of a longer scalar; -1 if it has none."""
    quote = ""
    for i, c in enumerate(line):
        if quote:
            if c == quote and not (quote == '"' and line[i - 1] == "\\"):
                quote = ""
        elif c in "\"'" and (i == 0 or line[i - 1] in " [{,:("):
            quote = c
        elif c == "#" and (i == 0 or line[i - 1] == " "):
            return i
    return -1


def _comments(text: str) -> list[str]:
    """The comments of a text in order."""
    protected = _scalar_lines(text)
    lines = enumerate(re.split(r"\r\n|\n|\r", text))
    found = [(line, _comment_at(line)) for number, line in lines if number not in protected]
    return [line[at:].rstrip() for line, at in found if at >= 0]


def formatting(text: Text) -> list[dict[str, Any]]:
    """The edits that format a document; none if nothing is to be done, or it cannot be read."""
    result = format_text(text.text)
    if result is None or result == text.text:
        return []
    return [{"range": whole(text), "newText": result}]
