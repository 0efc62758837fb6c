"""Adds the parts of trunks that a model leaves out, to show them beside the parts that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from graphmodel.graph.types import ModelGraph, Node, Ref


def with_ghosts(graph: ModelGraph) -> tuple[ModelGraph, frozenset[str]]:
    """The graph with calls of what it leaves out of its trunks, modules with parameters, and the names of those calls.

    They follow the pass that goes furthest through the trunk, in the order in which the trunk registers them. What they
    would return is not known, since nothing runs them.
    """
    added: dict[str, Node] = {}
    for component in graph.components.values():
        calls = [n for n in graph.nodes.values() if n.component == component.name and n.scope]
        called = {str(n.target) for n in calls if n.call in ("module", "attribute")}
        if component.kind != "trunk" or not called or component.name in called:
            continue
        places = {f"{component.name}.{path}": i for i, (path, _) in enumerate(component.meta.named_modules())}
        furthest = max(calls, key=lambda n: places.get(str(n.target), 0)).scope
        before = [n.name for n in graph.nodes.values() if n.scope == furthest][-1]
        for path in _unused(component.meta, component.name, called):
            name = f"unused_{path.replace('.', '_')}"
            while name in graph.nodes or name in added:
                name += "_"
            added[name] = Node(name, "trunk", "module", path, (Ref(before),), component=component.name, scope=furthest)
            before = name
    return replace(graph, nodes={**graph.nodes, **added}), frozenset(added)


def _unused(module: nn.Module, path: str, called: set[str]) -> Iterator[str]:
    """Paths of the largest modules with parameters below one in which nothing is called."""
    for name, child in module.named_children():
        inner = f"{path}.{name}"
        if any(c.startswith(f"{inner}.") for c in called):
            yield from _unused(child, inner, called)
        elif inner not in called and next(child.parameters(), None) is not None:
            yield inner
