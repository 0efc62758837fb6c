"""Dialects: each turns a document into the native document; the registry tells them apart by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from graphmodel.diagnostics import Collector
from graphmodel.spec.document import Document, KeyPath

InputShapes = Mapping[str, "tuple[int, ...] | Sequence[tuple[int, ...]]"]
"""Shapes given by the caller: a shape, or a list of shapes for an input that is a list of views."""


class Dialect(Protocol):
    """What a dialect module offers. Entry points of the group `graphmodel.dialects` name further ones."""

    name: str

    def recognises(self, document: Document) -> bool:
        """Whether the document is written in this dialect."""
        ...

    def override_prefixes(self, document: Document) -> Sequence[KeyPath]:
        """Where `--set` paths may start."""
        ...

    def to_native(self, document: Document, inputs: InputShapes, report: Collector) -> Document:
        """The native document, every value placed where the user wrote it; findings go into `report`."""
        ...
