"""Opens the modules that a graph calls: a stage or block becomes calls of its children, or of its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from graphmodel.components.features import Feature, FeatureError, Running
from graphmodel.components.structure import map_structure
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.graph.types import FX_OPS, Component, ModelGraph, Node, Output, Ref
from graphmodel.spec.model import InputSpec
from graphmodel.tracing.errors import TraceError
from graphmodel.tracing.opening import open_trunk
from graphmodel.tracing.traced import TracedTrunk
from graphmodel.visualize.group import is_small

SEPARATOR = "/"
"""Between the name of an opened call and the names of the calls in it; no name of a call contains it."""


def with_layers(graph: ModelGraph) -> tuple[ModelGraph, dict[str, str]]:
    """The graph with the calls of a trunk's stages replaced by calls of their layers, and the stage of each such call.

    A stage stays as it is if its code cannot be followed.
    """
    nodes: dict[str, Node] = {}
    stages: dict[str, str] = {}
    components = dict(graph.components)
    for name, node in graph.nodes.items():
        opened = opened_call(graph, node, deep=True)
        if opened is None:
            nodes[name] = node
            continue
        calls, component = opened
        nodes |= calls
        stages |= dict.fromkeys(calls, str(node.target))
        extras = {**components[node.component].extras, **component.extras}
        components[node.component] = replace(components[node.component], extras=extras)
    return replace(graph, nodes=nodes, components=components), stages


def opened_call(graph: ModelGraph, node: Node, *, deep: bool = False) -> tuple[dict[str, Node], Component] | None:
    """The calls that a call of a module consists of, the last one under the name of the call itself.

    Args:
        graph: the graph.
        node: a call of a trunk's module with one tensor.
        deep: whether to go on to single layers, or to stop at the module's children.

    Returns:
        The calls by name and the component with what they call beside its own modules; None if the module is a single
        layer, or its code cannot be followed.
    """
    module = graph.module_of(node) if node.kind == "trunk" else None
    if module is None or is_small(graph, node) or len(node.refs()) != 1 or not isinstance(node.args[:1], tuple):
        return None
    info = graph.nodes[node.refs()[0]].info
    if not (node.args and isinstance(node.args[0], Ref) and isinstance(info, TensorInfo)) or node.kwargs:
        return None
    taps = tuple(_layers(module) if deep else _children(module))
    if not taps:
        return None
    batches = _batches(info)
    pair = tuple(torch.empty(_shape(info, b), dtype=getattr(torch, info.dtype), device="meta") for b in batches)
    try:
        traced = open_trunk(module, [Feature("out", taps, runner=_run)], {"x": pair}, follow_sizes=False)
    except (TraceError, FeatureError):
        return None
    calls = _calls(node, traced, batches)
    if len(calls) < 2:
        return None
    path = node.path
    extras = {f"{path}.{name}".lstrip("."): extra for name, extra in traced.extras.items()}
    component = graph.components[node.component]
    return calls, replace(component, extras={**component.extras, **extras})


def _run(trunk: nn.Module, features: Any, x: Any, extras: Mapping[str, Any], running: Running) -> dict[str, Any]:
    return {"out": trunk(x)}


def _children(module: nn.Module) -> Iterator[str]:
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from (f"{name}.{inner}" for inner in _children(child))
        else:
            yield name


def _layers(module: nn.Module) -> Iterator[str]:
    for name, child in module.named_modules():
        if name and (not list(child.children()) or _is_layer(child)):
            yield name


def _is_layer(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )


def _batches(info: TensorInfo) -> tuple[int, int]:
    """Two batch sizes at which every dimension is a whole number."""
    whole = math.lcm(*(d.scale.denominator for d in info.shape if isinstance(d, Batch)))
    return 2 * whole, 3 * whole


def _shape(info: TensorInfo, batch: int) -> list[int]:
    return [d.at(batch) if isinstance(d, Batch) else d for d in info.shape]


def _info(value: Any, batches: tuple[int, int]) -> Any:
    """The shapes of a call's result; values are those of both batch sizes."""
    first, second = value
    if isinstance(first, torch.Tensor):
        step = batches[1] - batches[0]
        dims = [
            a if a == b else Batch(Fraction(b - a, step), int(a - Fraction(b - a, step) * batches[0]))
            for a, b in zip(first.shape, second.shape, strict=True)
        ]
        return TensorInfo(tuple(dims), str(first.dtype).removeprefix("torch."))
    if isinstance(first, (tuple, list)):
        return tuple(_info(pair, batches) for pair in zip(first, second, strict=True))
    return None


def _calls(node: Node, traced: TracedTrunk, batches: tuple[int, int]) -> dict[str, Node]:
    """The traced calls as nodes."""
    kinds = {op: call for call, op in FX_OPS.items()}
    last = traced.features["out"]
    names: dict[fx.Node, str] = {}
    found: dict[str, Node] = {}
    for each in traced.graph.nodes:
        if each.op == "placeholder":
            names[each] = node.refs()[0]
            continue
        owned = each.op in ("call_module", "get_attr")
        label = str(each.target).replace(".", "_") if owned else each.name.removeprefix("trunk_")
        name, number = f"{node.name}{SEPARATOR}{label}", 1
        while name in found:
            name, number = f"{node.name}{SEPARATOR}{label}_{number}", number + 1
        names[each] = node.name if each is last else name

        def read(value: Any) -> Any:
            return map_structure(lambda leaf: Ref(names[leaf]) if isinstance(leaf, fx.Node) else leaf, value)

        facts = node.facts if each is last else replace(node.facts, features=(), changed_by=(), in_place=False)
        found[names[each]] = replace(
            node,
            name=names[each],
            call=kinds[each.op],
            target=f"{node.target}.{each.target}" if owned else each.target,
            args=read(each.args),
            kwargs=read(each.kwargs),
            info=_info(each.meta["values"][:2], batches),
            component=node.component if owned else "",
            facts=facts,
        )
    return found if node.name in found else {}


def graph_inside(graph: ModelGraph, node: Node) -> ModelGraph | None:
    """A graph of what a call of a module does, down to the module's children.

    Args:
        graph: the graph of the call.
        node: the call.

    Returns:
        None if the call cannot be opened.
    """
    opened = opened_call(graph, node)
    if opened is None:
        return None
    calls, component = opened
    (read,) = dict.fromkeys(node.refs())
    info = graph.nodes[read].info
    return replace(
        graph,
        nodes={read: Node(read, "input", "placeholder", read, info=info), **calls},
        components={component.name: component},
        inputs={read: InputSpec(name=read, shape=info.sample, dtype=info.dtype)},
        outputs={"result": Output("result", {"result": node.name})},
        history=(),
        summary=(),
    )
