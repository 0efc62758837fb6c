"""Counts the floating-point operations of every call at batch size 1, on the meta device: no memory, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph, Node


def count_flops(graph: ModelGraph, rows: Mapping[str, int] | None = None) -> dict[str, int]:
    """Floating-point operations of each node in one forward pass of a single sample.

    The forward pass in eval mode is counted as `torch.utils.flop_counter` counts it: convolutions, matrix products and
    attention, a multiply-add as two operations. The sum over all nodes is what that counter finds for the compiled
    module, on the meta device, on inputs with `rows_per_sample` rows.

    Args:
        graph: a graph, before or after its passes.
        rows: the number of rows of each input; `rows_per_sample` if None. An optimized graph has those of its model
            graph: a pass that joins the batches of inputs does not make their numbers equal.

    Returns:
        The count by node name.
    """
    rows = rows_per_sample(graph) if rows is None else rows
    values: dict[str, Any] = {}
    flops: dict[str, int] = {}
    with on_meta(graph):
        for node in graph.nodes.values():
            with FlopCounterMode(display=False) as counter:
                values[node.name] = _run(graph, node, values, rows)
            flops[node.name] = int(counter.get_total_flops())
    return flops


def rows_text(rows: Mapping[str, int]) -> str:
    """The batch that operations are counted for: `batch 1`, or `batch 1 with 9 rows of patches`.

    >>> rows_text({"images": 1, "patches": 9})
    'batch 1 with 9 rows of patches'
    """
    several = [f"{number} rows of {name}" for name, number in rows.items() if number > 1]
    return "batch 1" + (f" with {' and '.join(several)}" if several else "")


def _run(graph: ModelGraph, node: Node, values: dict[str, Any], rows: Mapping[str, int]) -> Any:
    if node.call != "placeholder":
        return evaluate(graph, node, values)
    item = graph.inputs[node.name]
    shapes = [item.shape or ()] if item.views is None else item.views
    tensors = [torch.empty((rows[node.name], *shape), dtype=getattr(torch, item.dtype)) for shape in shapes]
    return tensors[0] if item.views is None else tensors
