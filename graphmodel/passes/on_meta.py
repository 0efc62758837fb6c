"""Runs single calls of a graph on the meta device, for passes that need to know what a module does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from graphmodel.components.structure import leaves, map_structure, map_structures
from graphmodel.components.tensors import Batch, Dim, TensorInfo
from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import Info, ModelGraph, Node, Ref, map_values


def batch_size(graph: ModelGraph) -> int:
    """A batch size that every call accepts: heads that join rows need a multiple of their number."""
    multiples = [c.params.batch_multiple() for c in graph.components.values() if hasattr(c.params, "batch_multiple")]
    return 2 * math.lcm(*multiples)


def filled(graph: ModelGraph, arguments: Any, batch: int, known: dict[tuple[str, int], Any] | None = None) -> Any:
    """Arguments of a call with meta tensors in place of references, for a batch size.

    A reference to a call of which the result holds something else than tensors (a size) is replaced by what it returns.

    Args:
        graph: the graph.
        arguments: arguments with references.
        batch: the batch size.
        known: what such calls returned before, by name and batch size; added to. In a chain of blocks that hand on
            their map's size (MViT), each block would otherwise run again for every block after it.
    """
    known = {} if known is None else known

    def tensor(leaf: Any) -> Any:
        if not isinstance(leaf, TensorInfo):
            return leaf
        shape = [d.at(batch) if isinstance(d, Batch) else d for d in leaf.shape]
        return torch.empty(shape, dtype=getattr(torch, leaf.dtype), device="meta")

    def value(ref: Ref) -> Any:
        node = graph.nodes[ref.node]
        if node.call == "placeholder" or all(isinstance(leaf, TensorInfo) for leaf in leaves(node.info)):
            return map_structure(tensor, node.info)
        key = node.name, batch
        if key not in known:
            known[key] = evaluate(graph, node, {name: value(Ref(name)) for name in node.refs()})
        return known[key]

    return map_values(arguments, value)


def changes_its_arguments(graph: ModelGraph, node: Node) -> bool:
    """Whether a call changes a tensor that it reads in place; one that cannot be run on its own does not say so."""
    batch = batch_size(graph)
    args, kwargs = filled(graph, node.args, batch), filled(graph, dict(node.kwargs), batch)
    read = [tensor for tensor in leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
    versions = [tensor._version for tensor in read]
    module = graph.module_of(node)
    try:
        with torch.no_grad(), torch.device("meta"):
            if module is not None:
                module(*args, **kwargs)
            elif node.call == "function" and callable(node.target):
                node.target(*args, **kwargs)
            elif node.call == "method":
                getattr(args[0], str(node.target))(*args[1:], **kwargs)
    except Exception:  # what cannot be run on its own
        return False
    return [tensor._version for tensor in read] != versions


def results_on_meta(graph: ModelGraph, node: Node, modules: Sequence[nn.Module]) -> list[Info]:
    """What each of some modules returns that run one after the other on what a call reads."""
    low, high = batch_size(graph), 2 * batch_size(graph)
    values = [filled(graph, node.args, batch)[0] for batch in (low, high)]

    def dim(first: int, second: int) -> Dim:
        if first == second:
            return first
        scale = Fraction(second - first, high - low)
        return Batch(scale, int(first - scale * low))

    def info(first: Any, second: Any) -> Info:
        if not isinstance(first, torch.Tensor):
            return None
        shape = tuple(dim(a, b) for a, b in zip(first.shape, second.shape, strict=True))
        return TensorInfo(shape, str(first.dtype).removeprefix("torch."))

    infos = []
    with on_meta(graph):  # in eval mode: BatchNorm with a cumulative average reads its count in training
        for module in modules:
            values = [module(value) for value in values]
            infos.append(map_structures(info, *values))
    return infos
