"""Where the head of an entry of a VISSL mapping is: heads have no names there, the mapping finds them by position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphmodel.diagnostics import Collector, CompileError, Span
from graphmodel.lsp.cursor import place_at
from graphmodel.lsp.documents import OpenDocument, resolved
from graphmodel.lsp.session import Session
from graphmodel.spec.document import Document, KeyPath, read_text

MAPS = ("MULTI_INPUT_HEAD_MAPPING", "LINEAR_EVAL_FEAT_POOL_OPS_MAP")

CANNOT_RENAME = (
    "nothing can be renamed in a VISSL file: its heads have no names, and its inputs have those that the data pipeline "
    "gives them"
)


def is_vissl(document: OpenDocument) -> bool:
    """Whether a document is a VISSL file that can be read."""
    try:
        data = read_text(document.text.text, str(document.path), report=Collector()).data
    except CompileError:
        return False
    return "MODEL" in data or "config" in data


def head_definitions(session: Session, document: OpenDocument, position: Any) -> list[dict[str, Any]]:
    """The heads that read the input or the feature at a position of a mapping."""
    spec = session.known_of(document).checked.spec
    if spec is None or spec.dialect != "vissl":
        return []
    try:
        read = read_text(document.text.text, str(document.path), report=Collector())
    except CompileError:
        return []
    text = document.text
    offset = text.offset(position)
    start = max(s for s in text.yaml_starts if s <= offset)
    place = place_at(read.places, str(document.path), text.yaml_starts.index(start) + 1, offset - start + 1)
    entry = _entry(place[0]) if place is not None else None
    if place is None or entry is None:
        return []
    # The name of the input stands for the whole entry.
    wanted = entry if place[0] == (*entry, 0) else place[0]
    found: list[Span] = []
    for edge in spec.edges:
        head = spec.heads.get(edge.head) if edge.head is not None else None
        here = spec.span(edge.sources[0].at)
        path = _path_of(read, here) if here is not None else None
        span = spec.span(head.at) if head is not None else None
        if path is None or span is None or span in found:
            continue
        if path[: len(wanted)] == wanted or wanted[: len(path)] == path:
            found.append(span)
    return [_location(session, span) for span in found]


def _entry(path: KeyPath) -> KeyPath | None:
    """The entry of a mapping that a path is in."""
    for name in MAPS:
        if name in path and len(path) > path.index(name) + 1:
            return path[: path.index(name) + 2]
    return None


def _path_of(read: Document, span: Span) -> KeyPath | None:
    """The path of an entry, or of a part of one, by its place."""
    for path, place in read.places.items():
        found = place.value
        if found is not None and (found.file, found.line, found.column) == (span.file, span.line, span.column):
            return path if _entry(path) is not None else None
    return None


def _location(session: Session, span: Span) -> dict[str, Any]:
    path = resolved(Path(span.file))
    return {"uri": session.documents.uri_of(path), "range": session.documents.text_of(path).span_range(span)}
