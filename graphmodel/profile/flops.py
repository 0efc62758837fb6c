"""Counts the floating-point operations of every call at batch size 1, on the meta device: no memory, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphmodel.components.tensors import Batch
from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import ModelGraph, Node, tensor_infos


def count_flops(graph: ModelGraph) -> dict[str, int]:
    """Floating-point operations of each node in one forward pass of a single sample.

    The forward pass in eval mode is counted as `torch.utils.flop_counter` counts it: convolutions, matrix products and
    attention, a multiply-add as two operations. The sum over all nodes is what that counter finds for the compiled
    module, on the meta device, on inputs with `rows_per_sample` rows.

    Args:
        graph: a graph, before or after its passes.

    Returns:
        The count by node name.
    """
    rows = rows_per_sample(graph)
    values: dict[str, Any] = {}
    flops: dict[str, int] = {}
    with on_meta(graph):
        for node in graph.nodes.values():
            with FlopCounterMode(display=False) as counter:
                values[node.name] = _run(graph, node, values, rows)
            flops[node.name] = int(counter.get_total_flops())
    return flops


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


def rows_text(rows: Mapping[str, int]) -> str:
    """The batch that operations are counted for: `batch 1`, or `batch 1 with 9 rows of patches`.

    >>> rows_text({"images": 1, "patches": 9})
    'batch 1 with 9 rows of patches'
    """
    several = [f"{number} rows of {name}" for name, number in rows.items() if number > 1]
    return "batch 1" + (f" with {' and '.join(several)}" if several else "")


def _denominators(node: Node) -> Iterator[int]:
    """By what a call divides the batch size."""
    for info in tensor_infos(node.info):
        for size in info.shape:
            if isinstance(size, Batch):
                yield size.scale.denominator


def _run(graph: ModelGraph, node: Node, values: dict[str, Any], rows: Mapping[str, int]) -> Any:
    if node.call != "placeholder":
        return evaluate(graph, node, values)
    item = graph.inputs[node.name]
    shapes = [item.shape or ()] if item.views is None else item.views
    tensors = [torch.empty((rows[node.name], *shape), dtype=getattr(torch, item.dtype)) for shape in shapes]
    return tensors[0] if item.views is None else tensors
