"""What a pass hands back: the graph, whether it changed, and what the user should know of it."""

from __future__ import annotations

from dataclasses import dataclass

from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import ModelGraph


@dataclass(frozen=True)
class PassResult:
    """The result of a pass.

    Attributes:
        graph: the graph; the very same object if nothing changed.
        changed: whether it differs from the graph that the pass was given.
        summary: what the pass did, in a few words; empty if there is nothing to say.
        notes: what it declined to do and why, each with a GM4xx code and the place in the spec.
    """

    graph: ModelGraph
    changed: bool
    summary: str = ""
    notes: tuple[Diagnostic, ...] = ()
