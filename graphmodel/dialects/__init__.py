"""Dialects: each turns a document into the native document; the registry tells them apart by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from graphmodel.diagnostics import Collector
from graphmodel.spec.document import Document, KeyPath

InputShapes = Mapping[str, "tuple[int, ...] | Sequence[tuple[int, ...]]"]
"""Shapes given by the caller: a shape, or a list of shapes for an input that is a list of views."""

BUILT_IN = ("graphmodel.dialects.vissl.dialect", "graphmodel.dialects.native.dialect")
"""The built-in dialects, imported only when a document is to be identified; the native one accepts the rest."""


class Dialect(Protocol):
    """What a dialect offers. Entry points of the group `graphmodel.dialects` name further ones."""

    name: str
    any_layout: bool
    """Whether features are read in any layout, even with channels last (`Source.any_layout`)."""

    def recognises(self, document: Document) -> bool:
        """Whether the document is written in this dialect."""
        ...

    named_sections: Sequence[str]
    """Keys of the document whose own keys are names that the user chose."""

    def override_prefixes(self, document: Document) -> Sequence[KeyPath]:
        """Where `--set` paths may start."""
        ...

    def to_native(self, document: Document, inputs: InputShapes, report: Collector) -> Document:
        """The native document, each value located where the user wrote it; findings go into `report`."""
        ...


def dialects() -> list[Dialect]:
    """The dialects of installed packages (entry points `graphmodel.dialects`) and the built-in ones, native last."""
    return [*_installed(), *map(_built_in, BUILT_IN)]


@cache
def _installed() -> tuple[Dialect, ...]:
    """The dialects of installed packages; finding them reads the metadata of every package, so it happens once."""
    from importlib import metadata

    return tuple(cast(Dialect, entry.load()) for entry in metadata.entry_points(group="graphmodel.dialects"))


def dialect_of(document: Document) -> Dialect:
    """The dialect that a document is written in."""
    # `graphmodel: 1` decides; installed packages are only asked without it, since finding them takes time.
    native = _built_in(BUILT_IN[-1])
    if "graphmodel" in document.data:
        return native
    return next((d for d in dialects() if d.recognises(document)), native)


def _built_in(module: str) -> Dialect:
    return cast(Dialect, import_module(module).DIALECT)
