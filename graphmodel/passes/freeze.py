"""Marks the calls whose parameters are all frozen; the lowering holds them still."""

from __future__ import annotations

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node


class Freeze:
    """Adds the fact `frozen`.

    >>> # freeze: [trunk]
    >>> # before: layer1 = trunk.layer1(x)
    >>> # after:  layer1 = trunk.layer1(x)  frozen
    """

    name = "freeze"
    requires: frozenset[str] = frozenset({"prune"})

    def run(self, graph: ModelGraph) -> ModelGraph:
        frozen = graph.frozen
        if not frozen:
            return graph
        return graph.replace_nodes(
            n.with_facts(frozen=True) if is_frozen_call(graph, n, frozen) else n for n in graph.nodes.values()
        )

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if list(before.nodes) != list(after.nodes):
            raise InvalidGraph("freeze changed the calls")


def is_frozen_call(graph: ModelGraph, node: Node, frozen: tuple[str, ...]) -> bool:
    """Whether every parameter behind the call is frozen (and the call itself covered, where it has none)."""
    if node.call not in ("module", "attribute"):
        return False
    path = str(node.target)
    if is_frozen(path, frozen):
        return True
    module = graph.module_of(node)
    if module is None:
        return False
    names = [f"{path}.{n}" for n, _ in module.named_parameters()]
    return bool(names) and all(is_frozen(n, frozen) for n in names)
