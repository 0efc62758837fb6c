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
    calls = graph.network
    meeting: nx.Graph[str] = nx.Graph()
    meeting.add_nodes_from(graph.inputs)
    for name in graph.nodes:
        read = [n for n in (*nx.ancestors(calls, name), name) if n in graph.inputs]
        nx.add_path(meeting, read)
    rows: dict[str, int] = {}
    for together in nx.connected_components(meeting):
        reached = set(together).union(*(nx.descendants(calls, name) for name in together))
        fewest = math.lcm(*(d for name in reached for d in _denominators(graph.nodes[name])))
        rows |= dict.fromkeys(together, fewest)
    return {name: rows[name] for name in graph.inputs}


def _denominators(node: Node) -> Iterator[int]:
    """By what a call divides the batch size."""
    for info in tensor_infos(node.info):
        for size in info.shape:
            if isinstance(size, Batch):
                yield size.scale.denominator
