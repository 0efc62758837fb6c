"""Builds a native document out of pieces of another, every piece keeping the place where the user wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphmodel.spec.document import Document, KeyPath, Place


@dataclass(frozen=True)
class At:
    """A value that stands for something at `path` of the source document.

    Attributes:
        value: the native value; it may hold further `At`s.
        path: where the user wrote what it comes from.
        rename: how the source spells a native key inside of `value`, for places.
        key: where the user wrote the name that became the value's key, if that stands elsewhere.
    """

    value: Any
    path: KeyPath
    rename: Callable[[str], str] | None = None
    key: KeyPath | None = None


def placed(tree: Any, source: Document) -> Document:
    """The native document of a tree of plain values and `At`s."""
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
    while isinstance(value, At):
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
