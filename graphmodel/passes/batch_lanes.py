"""Finds the passes of inputs through one trunk, and which of their calls are the same."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphmodel.components.structure import equal_structure, hashable
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.graph.types import ModelGraph, Node, map_values


@dataclass(frozen=True)
class Lane:
    """The pass of an input, or of a group of its views, through a trunk."""

    scope: str
    nodes: tuple[Node, ...]
    read: tuple[str, ...]

    @property
    def component(self) -> str:
        return next((n.component for n in self.nodes if n.component), "")


def groups_of_lanes(graph: ModelGraph) -> Iterator[list[Lane]]:
    """Passes through the same trunk over inputs of one shape, the longest first."""
    scopes: dict[str, list[Node]] = {}
    constants = constants_of(graph)
    for node in graph.nodes.values():
        if node.kind == "trunk" and node.name not in constants:
            scopes.setdefault(node.scope, []).append(node)
    groups: dict[Hashable, list[Lane]] = {}
    for scope, nodes in scopes.items():
        own = {n.name for n in nodes} | constants.keys()
        lane = Lane(scope, tuple(nodes), tuple(dict.fromkeys(r for n in nodes for r in n.refs() if r not in own)))
        key = sample_of(graph.nodes[lane.read[0]].info) if lane.read else None
        if key is not None and lane.component:
            groups.setdefault((lane.component, key), []).append(lane)
    for lanes in groups.values():
        if len(lanes) > 1:
            yield sorted(lanes, key=lambda lane: -len(lane.nodes))


def constants_of(graph: ModelGraph) -> dict[str, Hashable]:
    """Calls that read no input, such as those of parameters, with a key that is equal for equal ones."""
    found: dict[str, Hashable] = {}
    for node in graph.nodes.values():
        if node.kind == "trunk" and all(r in found for r in node.refs()):
            key = signature(node, found.__getitem__, called(graph, node))
            found[node.name] = node.name if key is None else key
    return found


def sample_of(info: Any) -> tuple[Any, str] | None:
    """The shape of a sample and the dtype of a batch; None for other values."""
    if not isinstance(info, TensorInfo) or not info.shape or not isinstance(info.shape[0], Batch):
        return None
    return (info.shape[1:], info.dtype) if all(isinstance(d, int) for d in info.shape[1:]) else None


def counterparts(graph: ModelGraph, first: Lane, lane: Lane) -> dict[str, str]:
    """The calls of a lane that are the same as calls of the first, by the name of the latter."""
    if lane is first:
        return {node.name: node.name for node in lane.nodes}

    constants = constants_of(graph)

    def keys(of: Lane, names: dict[str, Any]) -> Iterator[tuple[Node, Hashable]]:
        outside = {name: ("outside", i, str(sample_of(graph.nodes[name].info))) for i, name in enumerate(of.read)}
        for node in of.nodes:
            facts = (node.facts.checkpoint, node.facts.frozen, node.facts.in_place, len(node.facts.changed_by))
            known = {**names, **outside, **constants}
            target = called(graph, node)
            key = signature(node, lambda ref, known=known: known.get(ref, ref), target)
            yield node, None if key is None else (key, facts)

    own: dict[Hashable, list[str]] = {}
    for node, key in keys(first, {}):
        if key is not None:
            own.setdefault(key, []).append(node.name)
    found: dict[str, str] = {}
    names: dict[str, Any] = {}
    for node, key in keys(lane, names):
        if key is not None and own.get(key):
            name = own[key].pop(0)
            found[name], names[node.name] = node.name, name
    return {node.name: found[node.name] for node in first.nodes if node.name in found}


def signature(node: Node, of: Any, target: Any) -> Hashable:
    """What two calls must share to be the same; None if that cannot be compared."""
    args, kwargs = map_values((node.args, dict(node.kwargs)), lambda ref: ("value", of(ref.node)))
    key = (node.call, target if isinstance(node.target, str) else node.target, hashable(args), hashable(kwargs))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def called(graph: ModelGraph, node: Node) -> str:
    """What a call calls; constants and functions that were found twice, once for each pass, count as the same."""
    component = graph.components.get(node.component)
    extra = component.extras.get(node.path) if component is not None else None
    if component is None or extra is None:
        return str(node.target)
    same = next(path for path, other in component.extras.items() if other is extra or _equal(other, extra))
    return f"{node.component}.{same}"


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        known = not first.is_meta and first.dtype == second.dtype and first.shape == second.shape
        return known and torch.equal(first, second)
    if isinstance(first, nn.Module) and type(first) is type(second):
        plain = {k: v for k, v in first.__dict__.items() if not k.startswith("_")}
        other = {k: v for k, v in second.__dict__.items() if not k.startswith("_")}
        return not list(first.children()) and equal_structure(plain, other, lambda a, b: a is b or a == b)
    return False
