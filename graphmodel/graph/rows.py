"""Tells how many rows of each input one sample has, and whose batch sizes depend on each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import networkx as nx
import torch

from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.graph.types import ModelGraph, Node, tensor_infos

View = tuple[str, int | None]
"""An input and the position of a view, or None if the input is one tensor."""


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


def inputs_read_together(graph: ModelGraph) -> tuple[tuple[tuple[View, ...], str], ...]:
    """Inputs whose samples a call joins: with unequal batch sizes the call would fail, or repeat a batch of one.

    Calls of a trunk that takes several inputs are left out: they do what the trunk's own code does.

    Args:
        graph: a model graph, before optimizations join the batches of inputs that have nothing to do with each other.

    Returns:
        Groups of inputs in their order, each with the name of an output that reads all of them.
    """
    companions = {name for item in graph.inputs.values() for name in item.companions}
    comes_from: dict[str, tuple[View, ...]] = {}
    meeting: nx.Graph[View] = nx.Graph()
    for name, node in graph.nodes.items():
        read = list(dict.fromkeys(found for ref in node.refs() if (found := comes_from.get(ref))))
        views = tuple(dict.fromkeys(view for found in read for view in found))
        if node.call == "placeholder":
            views = ((name, None),) if isinstance(node.info, TensorInfo) else ()
        elif node.kind == "input" and (item := graph.inputs.get(node.refs()[0])) is not None and item.views is not None:
            views = ((item.name, int(node.args[1])),)
        elif len(read) > 1 and node.kind == "trunk":  # its own code says whether a mask of one serves all samples
            views = tuple(view for view in views if view[0] not in companions) or views
        elif len(read) > 1 and not _joins_batches(node):
            sizes = {_batch_size(graph.nodes[ref]) for ref in node.refs() if comes_from.get(ref)}
            if len(sizes) == 1 and len({len(found) for found in read}) == 1:
                for same in zip(*read, strict=True):  # one view of the first, and the same view of the others
                    nx.add_path(meeting, same)
                views = read[0]
        if any(tensor_infos(node.info)):
            comes_from[name] = views
    order = list(graph.inputs)
    groups = [
        tuple(sorted(found, key=lambda view: (order.index(view[0]), view[1] or 0)))
        for found in nx.connected_components(meeting)
    ]
    return tuple((group, _reader(graph, group)) for group in groups if len(group) > 1)


def _joins_batches(node: Node) -> bool:
    return node.target is torch.cat and (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) == 0


def _batch_size(node: Node) -> Batch | None:
    """The first dimension of a call's tensors; None if they have several, or one that does not grow with the batch."""
    found = {info.shape[0] if info.shape else 1 for info in tensor_infos(node.info)}
    size = found.pop() if len(found) == 1 else None
    return size if isinstance(size, Batch) else None


def _reader(graph: ModelGraph, group: tuple[View, ...]) -> str:
    names = {name for name, _ in group}
    readers = (o.name for o in graph.outputs.values() if names <= graph.needed_by(o.parts.values()))
    return next(readers, next(iter(graph.outputs)))
