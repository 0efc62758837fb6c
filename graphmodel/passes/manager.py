"""Runs passes in order and checks what each requires and promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graphmodel.graph.types import InvalidGraph, ModelGraph
from graphmodel.graph.verify import verify


class Pass(Protocol):
    """A pass.

    Attributes:
        name: a verb.
        requires: passes that must have run before.
    """

    name: str
    requires: frozenset[str]

    def run(self, graph: ModelGraph) -> ModelGraph:
        """The changed graph; the given one is left as it is."""
        ...

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        """Raises `InvalidGraph` where the pass broke its promise."""
        ...


def run_passes(graph: ModelGraph, pipeline: Sequence[Pass]) -> ModelGraph:
    """The graph after all passes.

    Raises:
        InvalidGraph: where a pass lacks one that it requires, breaks an invariant or its own promise.
    """
    from dataclasses import replace

    for each in pipeline:
        missing = each.requires - set(graph.history)
        if missing:
            raise InvalidGraph(f"the pass `{each.name}` requires {', '.join(sorted(missing))} to have run before")
        after = each.run(graph)
        verify(after, f"the pass `{each.name}`")
        each.check(graph, after)
        graph = replace(after, history=(*after.history, each.name))
    return graph
