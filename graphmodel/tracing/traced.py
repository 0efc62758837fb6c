"""A traced trunk: its calls, reduced to those that the requested features need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from graphmodel.components.features import items_of
from graphmodel.tracing.errors import Failed, NotATensor, SizeDecision, TraceError
from graphmodel.tracing.image_sizes import Accepts
from graphmodel.tracing.layout import FeatureLayout
from graphmodel.tracing.meta_runs import version
from graphmodel.tracing.proxy import IN_PLACE
from graphmodel.tracing.trunk_tensors import relative


@dataclass
class TracedTrunk:
    """A traced trunk.

    Attributes:
        graph: the trunk's calls; targets are module paths relative to the trunk, dead calls removed. What the tracer
            saw of each call is in `node.meta`: `values` (one for each run) and `mutates` (nodes
            that it changes in place).
        features: the node of each requested feature.
        inputs: placeholder names in order.
        layouts: how the dimensions of each requested feature are arranged.
        extras: what the graph calls and the trunk does not have, by path: modules without parameters in place of
            functions that depend on the mode, and tensors that the trunk keeps as plain attributes.
        accepts: the per-sample shapes of each input that the graph serves; None marks a dimension that may have any
            size that the trunk's own code takes.
    """

    graph: fx.Graph
    features: dict[str, fx.Node]
    inputs: tuple[str, ...] = ()
    layouts: dict[str, FeatureLayout] = field(default_factory=dict)
    extras: dict[str, nn.Module | torch.Tensor] = field(default_factory=dict)
    accepts: Mapping[str, Accepts] = field(default_factory=dict)


def finish(
    graph: fx.Graph, names: Sequence[str], layouts: Mapping[str, FeatureLayout], constants: Mapping[str, torch.Tensor]
) -> TracedTrunk:
    """The traced graph without what no feature needs.

    Args:
        graph: what the tracer recorded; its output is a dict of features.
        names: the inputs' names in order.
        layouts: how each feature is arranged.
        constants: tensors that the graph may read and that are neither parameters nor buffers of the trunk.

    Raises:
        TraceError: if a feature is not a single tensor.
    """
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    wanted = dict(output.args[0])
    for name, node in wanted.items():
        value, *others = node.meta["values"] if isinstance(node, fx.Node) else [node]
        if isinstance(value, Failed):
            raise TraceError(value.reason)
        if any(isinstance(other, Failed) for other in others[1:]):
            raise SizeDecision(others[1].reason)
        if not isinstance(node, fx.Node) or not isinstance(value, torch.Tensor):
            raise NotATensor(f"the feature `{name}` is not a tensor, it is {_kind(value)}", _parts_help(name, value))
    graph.erase_node(output)
    casts = _make_new_values(graph)
    wanted = {name: _protected(graph, casts.get(node) or node) for name, node in wanted.items()}
    alive = _alive(graph, list(wanted.values()))
    for node in reversed(list(graph.nodes)):
        if node not in alive and node.op != "placeholder":
            graph.erase_node(node)
    extras: dict[str, nn.Module | torch.Tensor] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = relative(str(node.target))
            if node.target in constants:
                extras[node.target] = constants[node.target]
        node.meta["values"] = node.meta["values"][:2]
        node.meta["mutates"] = [n for n in node.meta.get("mutates", ()) if n in alive or n.op == "placeholder"]
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node, name in zip(placeholders, names, strict=True):
        node.meta["input"] = name
    return TracedTrunk(graph, wanted, tuple(names), dict(layouts), extras)


def _parts_help(name: str, value: object) -> str:
    """How to name the parts of a value that is not a tensor."""
    parts = [f"`{name}.{key}`" for key in items_of(value)]
    return f"read a part of it: {', '.join(parts[:8])}" if parts else "let heads read modules that return tensors"


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"a mapping with {', '.join(f'`{k}`' for k in value)}"
    if isinstance(value, (list, tuple)):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value)}"
    return f"a {type(value).__name__}"


def _protected(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The node, or a copy of its value taken at once if a later call changes it in place."""
    if not any(node in changer.meta.get("mutates", ()) for changer in graph.nodes):
        return node
    with graph.inserting_after(node):
        copy = graph.call_function(torch.clone, (node,))
    copy.meta.update(values=node.meta["values"], version=version(node.meta["values"][0]), mutates=[], same_value=True)
    return copy


def _make_new_values(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Turns `x += y` into `x = x + y`, unless what `x` was, or a view of it, is read afterwards.

    `x += y` keeps the dtype of `x`, where `x + y` of two tensors may promote it: under autocast, `y` may be float32.

    Returns:
        the result of each such call, for those in which a cast follows.
    """
    order = {n: i for i, n in enumerate(graph.nodes)}
    made: list[fx.Node] = []
    for node in graph.nodes:
        aliases = node.meta.get("mutates", ())
        if node.target not in IN_PLACE or any(order[u] > order[node] for n in aliases for u in n.users):
            continue
        node.target = IN_PLACE[node.target]
        node.meta["mutates"] = []
        made.append(node)
        for later in graph.nodes:  # they change the new value alone
            if node in later.meta.get("mutates", ()):
                later.meta["mutates"] = [n for n in later.meta["mutates"] if n not in aliases]
    return {node: _with_dtype_kept(graph, node) for node in made if isinstance(node.args[1], fx.Node)}


def _with_dtype_kept(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The result of `x + y` in the dtype of `x`."""
    changed = node.args[0]
    users = list(node.users)
    with graph.inserting_after(node):
        same = graph.call_method("type_as", (node, changed))
    for user in users:
        user.replace_input_with(node, same)
    same.meta.update(node.meta)
    for later in graph.nodes:
        if node in later.meta.get("mutates", ()):
            later.meta["mutates"].append(same)
    return same


def _alive(graph: fx.Graph, wanted: Sequence[fx.Node]) -> set[fx.Node]:
    """What the wanted nodes need; includes calls that change a needed value in place, and assertions about sizes."""
    alive: set[fx.Node] = set()
    order = {n: i for i, n in enumerate(graph.nodes)}
    last = max(order[n] for n in wanted)
    changers: dict[fx.Node, list[fx.Node]] = {}
    for node in order:
        for changed in node.meta.get("mutates", ()) if order[node] <= last else ():
            changers.setdefault(changed, []).append(node)
    pending = [*wanted, *(n for n in graph.nodes if n.meta.get("asserts") and order[n] <= last)]
    while pending:
        node = pending.pop()
        if node in alive:
            continue
        alive.add(node)
        pending += node.all_input_nodes
        pending += changers.get(node, ())
    return alive
