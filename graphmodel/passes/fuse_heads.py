"""Runs many small heads as one computation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from graphmodel.components.fused import columns_of, run_heads
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node, Ref
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult

MIN_HEADS = 12
"""Fewer heads cost as much to join as they save."""

MAX_WEIGHTS = 32_768
"""Weights of a linear layer. Joining copies them; above, the copies cost as much as the calls that are saved."""

MAX_OUTPUTS = 32
"""Outputs of a linear layer. Wider ones are multiplied as fast one by one, once the batch is large."""

MAX_WEIGHTS_BATCHED = 1_536
"""Weights of a layer in a batched multiplication: all but the first one, and heads that read a value each.

The limits hold for every batch size: with a batch of one the copies weigh most, with a large batch the products do.
They were measured on one thread of a CPU, for training steps and for inference.
"""


class FuseHeads:
    """Heads of equal structure are one call.

    The heads are chains of linear layers and ReLUs. Single linear layers on one value are one multiplication, whatever
    their numbers of outputs; the layers after the first one, and heads on values of equal shape, are one batched
    multiplication. Parameters stay where they are: they are joined at each call.

    Fused are groups of at least `MIN_HEADS` heads whose layers are small (`MAX_WEIGHTS`, `MAX_OUTPUTS`,
    `MAX_WEIGHTS_BATCHED`): what is saved is the time of calls, and what is spent is the time of copying weights.

    Example:
        >>> from graphmodel.passes._example import example
        >>> heads = {f"h{i}": {"mlp": {"dims": ["auto", 2]}} for i in range(12)}
        >>> graph = example({"images": {"flatten": list(heads)}}, heads=heads)
        >>> print("\\n".join(str(graph).splitlines()[6:9]))
          %flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)
          %h0: N×2 = head heads.h0(%flatten)
          %h1: N×2 = head heads.h1(%flatten)
        >>> fused = FuseHeads().run(graph).graph
        >>> print("\\n".join(line[:84] for line in str(fused).splitlines()[6:9]))
          %flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)
          %h0_head: · = head heads.h0()
          %h1_head: · = head heads.h1()
        >>> print("\\n".join(line.replace("N×2, " * 10, "…, ")[:94] for line in str(fused).splitlines()[19:22]))
          %flatten_heads: […, N×2, N×2] = head graphmodel.components.fused.run_heads(%flatten, (%h0_he
          %h0: N×2 = head getitem(%flatten_heads, 0)
          %h1: N×2 = head getitem(%flatten_heads, 1)
    """

    name = "fuse_heads"
    switch: Switch = "on"
    requires: frozenset[str] = frozenset({"prune"})

    def run(self, graph: ModelGraph) -> PassResult:
        groups, notes = _plan(graph)
        if not groups:
            return PassResult(graph, changed=False, notes=notes)
        count = sum(len(group.nodes) for group in groups)
        summary = f"{count} heads run as {len(groups)} computation{'s' * (len(groups) > 1)}"
        return PassResult(_fused(graph, groups), changed=True, summary=summary, notes=notes)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        lost = [name for name, node in before.nodes.items() if after.nodes.get(name, node).info != node.info]
        if lost or before.nodes.keys() - after.nodes.keys() or before.outputs != after.outputs:
            raise InvalidGraph("fuse_heads dropped calls or changed what they return")


@dataclass(frozen=True)
class Group:
    """Calls of heads that could run as one.

    Attributes:
        nodes: the calls, in order.
        several: whether each reads a value of its own.
    """

    nodes: tuple[Node, ...]
    several: bool = False


def _plan(graph: ModelGraph) -> tuple[list[Group], tuple[Diagnostic, ...]]:
    """The groups to fuse, and a note for each group that is not fused."""
    groups: list[Group] = []
    notes: list[Diagnostic] = []
    alone: list[Node] = []
    calls = [node for node in graph.nodes.values() if _is_candidate(graph, node)]
    for readers in _by(calls, lambda node: node.refs()[0]):
        for found in _by(readers, lambda node: _structure(graph, node, several=False)):
            group = Group(found)
            declined = _why_not(graph, group)
            if declined is None:
                groups.append(group)
            elif len(found) > 1:
                notes.append(_note(group, *declined))
            else:
                alone += found
    for found in _by(alone, lambda node: (_structure(graph, node, several=True), str(_value(graph, node)))):
        group = Group(found, several=True)
        declined = _why_not(graph, group)
        if declined is None:
            groups.append(group)
        elif len(found) > 1:
            notes.append(_note(group, *declined))
    return groups, tuple(notes)


def _by(nodes: Iterable[Node], key: Callable[[Node], Hashable]) -> list[tuple[Node, ...]]:
    found: dict[Hashable, list[Node]] = {}
    for node in nodes:
        found.setdefault(key(node), []).append(node)
    return [tuple(group) for group in found.values()]


def _is_candidate(graph: ModelGraph, node: Node) -> bool:
    """Whether a call is of a head's module with one value, which nothing changes in place."""
    if node.kind != "head" or node.call != "module" or node.path or node.kwargs or node.facts.of_order():
        return False
    simple = len(node.args) == 1 and isinstance(node.args[0], Ref)
    return simple and isinstance(node.info, TensorInfo) and isinstance(graph.nodes[node.refs()[0]].info, TensorInfo)


def _value(graph: ModelGraph, node: Node) -> TensorInfo:
    info = graph.nodes[node.refs()[0]].info
    assert isinstance(info, TensorInfo)
    return info


def _module(graph: ModelGraph, node: Node) -> nn.Module:
    module = graph.module_of(node)
    assert module is not None
    return module


def _structure(graph: ModelGraph, node: Node, *, several: bool) -> Hashable:
    """What heads must share to be fused; heads that cannot be fused share the name of their family."""
    module = _module(graph, node)
    columns = columns_of((module,), several)
    if columns is None:
        return graph.components[node.component].family
    layers: list[Any] = [type(module)]
    free = len(columns) == 1 and not several
    for layer in (column.layers[0] for column in columns):
        if isinstance(layer, nn.Linear):
            outputs = None if free else layer.out_features
            layers.append((layer.in_features, outputs, layer.bias is not None, layer.weight.dtype))
        else:
            layers.append(type(layer))
    return tuple(layers)


def _why_not(graph: ModelGraph, group: Group) -> tuple[str, str] | None:
    """Why a group is not fused, with the code of the finding; None if it is."""
    heads = tuple(_module(graph, node) for node in group.nodes)
    columns = columns_of(heads, group.several)
    if columns is None:
        family = graph.components[group.nodes[0].component].family
        return "GM415", f"a head of the kind `{family}` is more than linear layers and ReLUs"
    if len(heads) < MIN_HEADS:
        return "GM416", f"joining the weights of {len(heads)} saves nothing, {MIN_HEADS} are needed"
    for position, column in enumerate(columns):
        batched = group.several or position > 0
        limit = MAX_WEIGHTS_BATCHED if batched else MAX_WEIGHTS
        for layer in column.layers:
            if not isinstance(layer, nn.Linear):
                continue
            shape = f"a layer of {layer.in_features}×{layer.out_features} weights"
            if layer.in_features * layer.out_features > limit:
                return "GM416", f"joining {shape} costs more than calling it (up to {limit} are joined here)"
            if layer.out_features > MAX_OUTPUTS:
                return "GM416", f"{shape} is as fast by itself (up to {MAX_OUTPUTS} outputs are joined)"
    waits = _why_not_at_once(graph, group) if group.several else None
    return ("GM415", waits) if waits is not None else None


def _why_not_at_once(graph: ModelGraph, group: Group) -> str | None:
    """Why heads on several values cannot wait for the last of them; None if they can."""
    inputs = graph.needed_by(ref for node in group.nodes for ref in node.refs()) & graph.inputs.keys()
    if len(inputs) > 1:
        return f"their values come from several inputs ({', '.join(sorted(inputs))}), whose batches may differ"
    names = {node.name for node in group.nodes}
    for node in graph.nodes.values():
        if names & set(node.refs()):
            return f"`{node.name}` needs one of them before all of them can run"
        if node.name == group.nodes[-1].name:
            return None
    return None


def _note(group: Group, code: str, reason: str) -> Diagnostic:
    first, count = group.nodes[0], len(group.nodes)
    names = ", ".join(f"`{node.name}`" for node in (group.nodes if count <= 4 else group.nodes[:3]))
    more = f" and {count - 3} more" if count > 4 else ""
    value = "values of one shape" if group.several else f"`{first.refs()[0]}`"
    message = f"the heads {names}{more} on {value} are not fused: {reason}"
    return Diagnostic(code, message, first.span, severity="note", path=first.name)


def _fused(graph: ModelGraph, groups: list[Group]) -> ModelGraph:
    """The graph with one call for each group, and its parts in the place of the heads."""
    taken = {*graph.nodes, *graph.inputs}

    def unused(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    made: dict[str, list[Node]] = {}
    for group in groups:
        heads = [
            Node(unused(f"{n.name}_head"), "head", "attribute", n.target, component=n.component, span=n.span)
            for n in group.nodes
        ]
        first, values = group.nodes[0], [node.args[0] for node in group.nodes]
        call = Node(
            name=unused("fused_heads" if group.several else f"{first.refs()[0]}_heads"),
            kind="head",
            call="function",
            target=run_heads,
            args=(tuple(values) if group.several else values[0], tuple(Ref(head.name) for head in heads)),
            info=tuple(node.info for node in group.nodes),
            span=first.span,
        )
        parts = [
            replace(node, call="function", target=operator.getitem, args=(Ref(call.name), i))
            for i, node in enumerate(group.nodes)
        ]
        made.update((node.name, []) for node in group.nodes)
        if group.several:
            made[group.nodes[-1].name] = [*heads, call, *parts]
            continue
        made.update((part.name, [part]) for part in parts)
        made[first.name] = [*heads, call, parts[0]]
    return graph.replace_nodes(new for node in graph.nodes.values() for new in made.get(node.name, [node]))
