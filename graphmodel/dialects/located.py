"""Builds a native document from parts of another, each part keeping the location where the user wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphmodel.spec.document import Document, KeyPath, Place


@dataclass(frozen=True)
class Located:
    """A value that comes from `path` of the source document.

    Attributes:
        value: the native value; it may hold further `Located` values.
        path: where the user wrote what it comes from.
        rename: the source's spelling of a native key inside `value`, for locations.
        key: where the user wrote the name that became the value's key, if that is elsewhere.
    """

    value: Any
    path: KeyPath
    rename: Callable[[str], str] | None = None
    key: KeyPath | None = None


def to_document(tree: Any, source: Document) -> Document:
    """The native document of a tree of plain values and `Located` values."""
    places: dict[KeyPath, Place] = {}
    data = _strip(tree, (), None, None, source, places)
    return Document(data, places, source.files)


def _strip(
    value: Any,
    path: KeyPath,
    origin: KeyPath | None,
    rename: Callable[[str], str] | None,
    source: Document,
    places: dict[KeyPath, Place],
) -> Any:
    key: KeyPath | None = None
    while isinstance(value, Located):
        origin, rename, key, value = value.path, value.rename, value.key or key, value.value
    if origin is not None:
        span = source.span(origin)
        if span is not None:
            places[path] = Place(span, source.span(key) if key is not None else source.span(origin, key=True))
    if isinstance(value, dict):
        out = {}
        for name, child in value.items():
            spelled = rename(name) if rename is not None else name
            below = (*origin, spelled) if origin is not None else None
            out[name] = _strip(child, (*path, name), _existing(below, source), rename, source, places)
        return out
    if isinstance(value, (list, tuple)):
        return [
            _strip(
                child,
                (*path, i),
                _existing((*origin, i) if origin is not None else None, source),
                rename,
                source,
                places,
            )
            for i, child in enumerate(value)
        ]
    return value


def _existing(path: KeyPath | None, source: Document) -> KeyPath | None:
    return path if path is not None and path in source.places else None
