"""Tells how many rows of each input one sample has."""

from __future__ import annotations

import math
from collections.abc import Iterator

import networkx as nx

from graphmodel.components.tensors import Batch
from graphmodel.graph.types import ModelGraph, Node, tensor_infos


def rows_per_sample(graph: ModelGraph) -> dict[str, int]:
    """The number of rows that each input (or each of its views) has for one sample.

    It is 1, unless a head joins rows: if the nine patches of a sample are nine rows, `patches` has 9. Inputs that
    meet in a call have the same number.

    Args:
        graph: a graph, before or after its passes.

    Returns:
        The number by input name, in the order of the inputs.
    """
    rows = {name: number for together in shared_batches(graph) for name, number in together.items()}
    return {name: rows[name] for name in graph.inputs}


def shared_batches(graph: ModelGraph) -> list[dict[str, int]]:
    """Inputs whose batch sizes depend on each other, since a call reads them all, and their rows for one sample."""
    calls = graph.network
    meeting: nx.Graph[str] = nx.Graph()
    meeting.add_nodes_from(graph.inputs)
    for name in graph.nodes:
        read = [n for n in (*nx.ancestors(calls, name), name) if n in graph.inputs]
        nx.add_path(meeting, read)
    found = []
    for together in nx.connected_components(meeting):
        reached = set(together).union(*(nx.descendants(calls, name) for name in together))
        fewest = math.lcm(*(d for name in reached for d in _denominators(graph.nodes[name])))
        found.append({name: fewest for name in graph.inputs if name in together})
    return found


def _denominators(node: Node) -> Iterator[int]:
    """By what a call divides the batch size."""
    for info in tensor_infos(node.info):
        for size in info.shape:
            if isinstance(size, Batch):
                yield size.scale.denominator
