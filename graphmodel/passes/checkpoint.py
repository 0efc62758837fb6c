"""Marks trunk stages whose activations are recomputed in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Iterator

from graphmodel.graph.types import InvalidGraph, ModelGraph, Node


class Checkpoint:
    """Adds the fact `checkpoint` to the stages of every trunk, where the spec asks for it.

    A stage is a call of a trunk's module that itself has several modules; what is frozen keeps no activations and is
    left alone.

    >>> # checkpoint: true
    >>> # before: layer1 = trunk.layer1(x)
    >>> # after:  layer1 = trunk.layer1(x)  checkpoint
    """

    name = "checkpoint"
    requires: frozenset[str] = frozenset({"freeze"})

    def run(self, graph: ModelGraph) -> ModelGraph:
        if not graph.spec.checkpoint:
            return graph
        stages = {n.name for n in _stages(graph)}
        calls = len({str(graph.nodes[s].target) for s in stages})
        saved = f"checkpoint: {calls} stages are recomputed in the backward pass"
        return graph.replace_nodes(
            (n.with_facts(checkpoint=True) if n.name in stages else n for n in graph.nodes.values()),
            saved=(*graph.saved, saved),
        )

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if list(before.nodes) != list(after.nodes):
            raise InvalidGraph("checkpoint changed the calls")


def _stages(graph: ModelGraph) -> Iterator[Node]:
    for node in graph.nodes.values():
        if node.kind == "trunk" and node.call == "module" and not node.facts.frozen:
            module = graph.module_of(node)
            if module is not None and len(list(module.modules())) > 2:
                yield node
