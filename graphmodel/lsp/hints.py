"""Inlay hints: the shape on every edge of the mapping, behind the name of the feature and behind that of the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphmodel.diagnostics import Span
from graphmodel.lsp.documents import OpenDocument, resolved
from graphmodel.lsp.positions import Range, contains
from graphmodel.lsp.session import Session
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import ModelSpec

_TYPE = 1


def hints(session: Session, document: OpenDocument, range_: Range) -> list[dict[str, Any]]:
    """The hints in a range of a document; those of the last whole check, at the places that the text has now."""
    known = session.known_of(document)
    spec = known.checked.spec
    if spec is None or known.model is None:
        return []
    found: dict[tuple[int, int], dict[str, Any]] = {}

    def add(span: Span | None, shape: str, tooltip: str) -> None:
        if span is None or not shape or resolved(Path(span.file)) != document.path:
            return
        position = document.text.position(document.text.span_offsets(span)[1])
        hint = {"position": position, "label": f": {shape}", "kind": _TYPE, "tooltip": tooltip, "paddingRight": True}
        if contains(range_, position):
            found.setdefault((position["line"], position["character"]), hint)

    for edge in known.model["edges"]:
        at: KeyPath = tuple(edge["at"])
        for source in edge["sources"]:
            add(_source_span(spec, tuple(source["at"])), source["shape"], "the shape of what is read")
        shape = ", ".join(dict.fromkeys(edge["shapes"].values()))
        tooltip = f"the shape of the output `{edge['output']}`"
        if edge["head"] is not None:
            add(_head_span(spec, at, edge["head"]), shape, tooltip)
        elif [source["shape"] for source in edge["sources"]] != [shape]:  # pooled, flattened, combined
            place = spec.document.places.get((*at, "as"))
            add(place.value if place is not None else None, shape, tooltip)
    for name, shape in known.model["inputs"].items():
        item = spec.inputs.get(name)
        if item is not None and spec.document.get(item.at) is None and spec.dialect == "native":
            add(_key_span(spec, item.at), shape, "the shape of the input")
    return list(found.values())


def _key_span(spec: ModelSpec, path: KeyPath) -> Span | None:
    place = spec.document.places.get(path)
    return place.key if place is not None else None


def _source_span(spec: ModelSpec, path: KeyPath) -> Span | None:
    """Where a feature is named: a value, or a key of the short form."""
    place = spec.document.places.get(path)
    if place is None:
        return None
    if isinstance(spec.document.get(path), str) and path[-1:] in (("from",),):
        return place.value
    if isinstance(path[-1], int):
        return place.value
    return place.key if spec.dialect == "native" and path[:1] == ("mapping",) else None


def _head_span(spec: ModelSpec, path: KeyPath, head: str) -> Span | None:
    """Where the head of an edge is named."""
    for here in (path, (*path, "head"), (*path, "heads")):
        if spec.document.get(here) == head:
            place = spec.document.places.get(here)
            return place.value if place is not None else None
    if path[:1] == ("heads",):  # without a mapping, the head itself
        return _key_span(spec, path)
    return None
