"""Records which modules of a model are called, and how often, by running its graph on the meta device."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from torch import nn

from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import ModelGraph, Ref
from graphmodel.passes.on_meta import batch_size, filled


def count_calls(graph: ModelGraph) -> Counter[str]:
    """How often each module is called in one forward pass, by its path from the root.

    A container that only holds modules, such as an `nn.ModuleList`, is not called; nor is a layer whose weights are
    read by another one.

    Args:
        graph: the model graph.
    """
    counts: Counter[str] = Counter()

    def count(path: str, *_: Any) -> None:
        counts[path] += 1

    handles = []
    for name, component in graph.components.items():
        for path, module in component.meta.named_modules(prefix=name):
            handles.append(module.register_forward_pre_hook(partial(count, path)))
    values: dict[str, Any] = {}
    try:
        with on_meta(graph):
            for node in graph.nodes.values():
                placeholder = node.call == "placeholder"
                made = (
                    filled(graph, Ref(node.name), batch_size(graph)) if placeholder else evaluate(graph, node, values)
                )
                values[node.name] = made
    finally:
        for handle in handles:
            handle.remove()
    return counts


def parameter_bytes(module: nn.Module) -> int:
    """The bytes of a module's parameters, each counted once; of all shards together if they are sharded."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
