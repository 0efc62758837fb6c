"""Quick fixes: the name that a finding proposes, in the place of the one that is wrong."""

from __future__ import annotations

import re
from typing import Any

from graphmodel.diagnostics import Diagnostic, nearest
from graphmodel.lsp.positions import Range, Text

_QUOTED = re.compile(r"`([^`]+)`")
_PLAIN = re.compile(r"[A-Za-z0-9_][\w./:+-]*")


def fix(finding: Diagnostic, text: Text) -> tuple[Range, str] | None:
    """The range to replace and the new text; None if the finding proposes no name, or its name is not in its span.

    Args:
        finding: the finding.
        text: the document that its span is in.
    """
    new = finding.suggestion
    if not new or finding.span is None:
        return None
    start, end = text.span_offsets(finding.span)
    written = text.text[start:end]
    wrong = _wrong_name(finding, written, new)
    if wrong is None:
        return None
    at = written.index(wrong) if written.count(wrong) == 1 else written.rindex(wrong)
    return text.range(start + at, start + at + len(wrong)), new if _PLAIN.fullmatch(new) else f'"{new}"'


def _wrong_name(finding: Diagnostic, written: str, new: str) -> str | None:
    """The name that is wrong: one that the message quotes and the span has."""
    named = [part for words in _QUOTED.findall(finding.message) for part in (words, words.rpartition(": ")[2])]
    quoted = [word for word in named if word in written]
    bare = written.strip("\"'")
    if bare in quoted:
        return bare
    near = nearest(new, quoted)
    return near if near is not None else next(iter(quoted), None)


def code_action(finding: Diagnostic, shown: Any, uri: str, text: Text) -> dict[str, Any] | None:
    """The code action of a finding.

    Args:
        finding: the finding.
        shown: the diagnostic as the editor has it.
        uri: the address of the document.
        text: the document.
    """
    found = fix(finding, text)
    if found is None:
        return None
    range_, new = found
    return {
        "title": f"Change to `{new}`",
        "kind": "quickfix",
        "diagnostics": [shown],
        "isPreferred": True,
        "edit": {"changes": {uri: [{"range": range_, "newText": new}]}},
    }
