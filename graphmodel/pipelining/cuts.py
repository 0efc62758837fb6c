"""Finds where a graph is cut into consecutive parts of about equal work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx
import torch

from graphmodel.graph.types import ModelGraph, Node


def blocks_of(graph: ModelGraph) -> list[tuple[str, ...]]:
    """The calls in an order in which they can be cut anywhere between two blocks.

    Calls that share parameters are one block, so that every parameter is in one stage: two inputs through one trunk
    pass each of its stages together. So are a value, what changes it in place, and what reads it before.

    Args:
        graph: the model graph.
    """
    order = {name: place for place, name in enumerate(graph.nodes)}
    groups = nx.utils.UnionFind(graph.nodes)
    owners: dict[int, str] = {}
    for name, node in graph.nodes.items():
        for tensor in _tensors(graph, node):
            groups.union(owners.setdefault(id(tensor), name), name)
        changers = [c for c in node.facts.changed_by if c in order]
        if changers:
            last = max(order[c] for c in changers)
            readers = [n for n, other in graph.nodes.items() if name in other.refs() and order[n] < last]
            groups.union(name, *changers, *readers)
    calls: nx.DiGraph[str] = nx.DiGraph()
    for name, node in graph.nodes.items():
        calls.add_node(groups[name])
        calls.add_edges_from((groups[ref], groups[name]) for ref in node.refs() if groups[ref] != groups[name])
    merged = nx.condensation(calls)  # a module that is called on its own result makes a cycle
    members = {block: tuple(n for n in graph.nodes if groups[n] in merged.nodes[block]["members"]) for block in merged}
    return [members[b] for b in nx.lexicographical_topological_sort(merged, key=lambda b: order[members[b][0]])]


def cut(blocks: list[tuple[str, ...]], work: Mapping[str, int], allowed: list[bool], stages: int) -> list[int] | None:
    """Positions of the cuts that make the largest part as small as possible; None if there are too few.

    Args:
        blocks: names of calls.
        work: the work of each call.
        allowed: for each position between two blocks whether it can be cut, the first before block 1.
        stages: the number of parts.
    """
    total = [0]
    for block in blocks:
        total.append(total[-1] + sum(work[name] for name in block))
    places = [at for at, free in enumerate(allowed, start=1) if free]
    best: dict[int, tuple[int, list[int]]] = {at: (total[at], [at]) for at in places}
    for _ in range(stages - 2):
        best = {
            at: min((max(largest, total[at] - total[cuts[-1]]), [*cuts, at]) for largest, cuts in earlier)
            for at in places
            if (earlier := [found for found in best.values() if found[1][-1] < at])
        }
    whole = [(max(largest, total[-1] - total[cuts[-1]]), cuts) for largest, cuts in best.values()]
    return min(whole)[1] if whole else None


def _tensors(graph: ModelGraph, node: Node) -> Iterator[torch.Tensor]:
    module, tensor = graph.module_of(node), graph.tensor_of(node)
    if module is not None:
        yield from module.parameters()
        yield from module.buffers()
    if tensor is not None:
        yield tensor
