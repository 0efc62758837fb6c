"""Counts floating-point operations per sample of every call, on the meta device: no memory, no weights."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from graphmodel.build.graph_writer import DTYPES
from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import ModelGraph, Node


def count_flops(graph: ModelGraph) -> dict[str, Fraction]:
    """Floating-point operations per sample of each node, a multiply-add counted as two.

    A sample is one row of every input's batch; an input of views counts each of its views. The forward in eval mode
    is counted: convolutions, matrix products and attention, as `torch.utils.flop_counter` counts them.

    Args:
        graph: a graph, before or after its passes.

    Returns:
        The count by node name.
    """
    batch = _batch(graph)
    values: dict[str, Any] = {}
    flops: dict[str, Fraction] = {}
    with on_meta(graph):
        for node in graph.nodes.values():
            counter = FlopCounterMode(display=False)
            with counter:
                values[node.name] = _run(graph, node, values, batch)
            flops[node.name] = Fraction(counter.get_total_flops(), batch)
    return flops


def _batch(graph: ModelGraph) -> int:
    """A batch size that every call can take: heads that join rows want a multiple of them."""
    multiples = [c.params.batch_multiple() for c in graph.components.values() if hasattr(c.params, "batch_multiple")]
    return 2 * math.lcm(*multiples)


def _run(graph: ModelGraph, node: Node, values: dict[str, Any], batch: int) -> Any:
    if node.call == "placeholder":
        item = graph.inputs[node.name]
        shapes = [item.shape or ()] if item.views is None else item.views
        tensors = [torch.empty((batch, *shape), dtype=DTYPES[item.dtype]) for shape in shapes]
        return tensors[0] if item.views is None else tensors

    return evaluate(graph, node, values)
