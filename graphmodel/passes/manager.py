"""Runs passes in order and checks what each requires and promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

from graphmodel.graph.types import InvalidGraph, ModelGraph
from graphmodel.graph.verify import verify
from graphmodel.passes.result import PassResult

Switch = Literal["always", "on", "off"]


class Pass(Protocol):
    """A pass.

    Attributes:
        name: a verb.
        switch: `always` if it carries out what the spec says; an optimization runs unless it is turned off (`on`, for
            those that compute the same up to rounding and decline where they do not pay) or only if it is asked for
            (`off`).
        requires: passes that must have run before.
    """

    name: str
    switch: Switch
    requires: frozenset[str]

    def run(self, graph: ModelGraph) -> PassResult:
        """The changed graph and a report; the given graph is left as it is."""
        ...

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        """Raises `InvalidGraph` if the pass broke its promise."""
        ...


def run_passes(graph: ModelGraph, pipeline: Sequence[Pass]) -> ModelGraph:
    """The graph after all passes; its `history`, `summary` and `notes` tell what they did.

    Raises:
        InvalidGraph: if a pass lacks one that it requires, breaks an invariant or its own promise.
    """
    for each in pipeline:
        missing = each.requires - set(graph.history)
        if missing:
            raise InvalidGraph(f"the pass `{each.name}` requires {', '.join(sorted(missing))} to have run before")
        result = each.run(graph)
        if not result.changed and result.graph is not graph:
            raise InvalidGraph(f"the pass `{each.name}` says that it changed nothing and returns another graph")
        verify(result.graph, f"the pass `{each.name}`")
        each.check(graph, result.graph)
        graph = replace(
            result.graph,
            history=(*graph.history, each.name),
            summary=(*graph.summary, *([f"{each.name}: {result.summary}"] if result.summary else [])),
            notes=(*graph.notes, *result.notes),
        )
    return graph
