"""Runs the calls of a graph on the meta device, without weights or memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from graphmodel.components.structure import map_structure
from graphmodel.graph.types import ModelGraph, Node, Ref


def evaluate(graph: ModelGraph, node: Node, values: Mapping[str, Any]) -> Any:
    """The result of one call.

    Args:
        graph: the graph.
        node: a call of it, not an input.
        values: the results of the calls that it reads, by name.
    """

    def value(leaf: Any) -> Any:
        return values[leaf.node] if isinstance(leaf, Ref) else leaf

    args, kwargs = map_structure(value, (node.args, dict(node.kwargs)))
    if node.call == "function":
        assert callable(node.target)
        return node.target(*args, **kwargs)
    if node.call == "method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.call == "attribute" and not node.path:  # a module that another call is given
        return graph.components[node.component].meta
    module = graph.module_of(node)
    return graph.tensor_of(node) if module is None else module(*args, **kwargs)


@contextmanager
def on_meta(graph: ModelGraph) -> Iterator[None]:
    """Inside, every component is in eval mode, and tensors are made on the meta device and need no gradient."""
    training = [m for c in graph.components.values() for m in c.meta.modules() if m.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad(), torch.device("meta"):
            yield
    finally:
        for module in training:
            module.training = True
