"""Removes calls that no output needs, and components that no call is left for."""

from __future__ import annotations

from dataclasses import replace

from graphmodel.graph.types import InvalidGraph, ModelGraph


class Prune:
    """Keeps what the outputs reach, and inputs.

    >>> # before: images -> conv1 -> layer1 -> layer2 -> unused;  output: layer1
    >>> # after:  images -> conv1 -> layer1
    """

    name = "prune"
    requires: frozenset[str] = frozenset()

    def run(self, graph: ModelGraph) -> ModelGraph:
        alive = reachable(graph)
        dead = [name for name, n in graph.nodes.items() if name not in alive and n.call != "placeholder"]
        saved = (f"prune: {len(dead)} calls removed",) if dead else ()
        return replace(graph.drop(dead), saved=(*graph.saved, *saved))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        dead = {n for n, node in after.nodes.items() if node.call != "placeholder"} - reachable(after)
        if dead:
            raise InvalidGraph(f"prune left dead calls: {', '.join(sorted(dead))}")


def reachable(graph: ModelGraph) -> set[str]:
    """Nodes that an output needs. A trunk's in-place calls were kept by the tracer as calls that later ones read."""
    return graph.needed_by(n for o in graph.outputs.values() for n in o.parts.values())
