"""Ghosts: the calls of a trunk that no output needs, traced only to be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphmodel.build.graph_writer import GraphWriter
from graphmodel.components.features import Feature
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.graph.text import target_text
from graphmodel.graph.types import ModelGraph, Node, Ref, map_values
from graphmodel.tracing.tracer import open_trunk

BATCHES = (6, 9)
"""Two batch sizes; shapes that differ between them grow with the batch."""


def with_ghosts(graph: ModelGraph) -> tuple[ModelGraph, frozenset[str]]:
    """The graph with what its trunks would also compute if they ran to their end, and the names of those calls.

    Each pass is traced once more for the trunk's own result, opened as far as it is now. A trunk whose result cannot be
    followed shows no ghosts.
    """
    scopes: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.scope:
            scopes.setdefault(node.scope, []).append(node)
    added: dict[str, Node] = {}
    for scope, nodes in scopes.items():
        component = next((n.component for n in nodes if n.component), "")
        if component:
            added |= _ghosts_of(graph, component, scope, nodes, {*graph.nodes, *added})
    return replace(graph, nodes={**graph.nodes, **added}), frozenset(added)


def _ghosts_of(graph: ModelGraph, component: str, scope: str, nodes: list[Node], taken: set[str]) -> dict[str, Node]:
    inside = {n.name for n in nodes}
    entries = list(dict.fromkeys(r for n in nodes for r in n.refs() if r not in inside))
    samples = [_samples(graph.nodes[e].info) for e in entries]
    if len(entries) != 1 or samples[0] is None:
        return {}  # companions go in by names that the graph no longer knows
    paths = [str(n.target).removeprefix(f"{component}.") for n in nodes if n.call == "module"]
    taps = [Feature(f"tap{i}", (path,)) for i, path in enumerate(dict.fromkeys(paths))]
    trunk = graph.components[component].meta
    opened = None
    for wanted in ([*taps, Feature("whole")], [Feature("whole")]):
        try:
            opened = open_trunk(trunk, wanted, {"x": samples[0]})
            break
        except Exception:  # the trunk's own code may do anything once it runs beyond what the model needs
            continue  # a module that is called twice names no feature; the trunk's own result may still be followed
    if opened is None:
        return {}
    known = _numbered((n.call, target_text(n.target), n.name) for n in nodes)
    writer = GraphWriter(BATCHES, sorted(taken))
    names: dict[fx.Node, str] = {}
    made: dict[str, Node] = {}
    seen: Counter[tuple[str, str]] = Counter()
    needed = _needed(opened.features["whole"])
    for call in opened.graph.nodes:
        if call not in needed and call.op != "placeholder":
            continue  # a copy that the tracer made only to keep a tapped value from changing
        if call.op == "placeholder":
            names[call] = entries[0]
            continue
        kind = {"call_module": "module", "call_function": "function", "call_method": "method", "get_attr": "attribute"}
        owned = kind[call.op] in ("module", "attribute")
        target: Any = f"{component}.{call.target}" if owned else call.target
        key = (kind[call.op], target_text(target))
        seen[key] += 1
        existing = known.get((*key, seen[key]))
        if existing is not None:
            names[call] = existing
            continue
        name = writer.unique(f"{scope}_{str(call.target).replace('.', '_') if owned else call.name}")
        names[call] = name
        made[name] = Node(
            name,
            "trunk",
            kind[call.op],  # type: ignore[arg-type]
            target,
            _refs(call.args, names),
            _refs(call.kwargs, names),
            component=component if owned else "",
            info=writer.info(call.meta["values"]),
            span=nodes[0].span,
            scope=scope,
        )
    return made


def _needed(result: fx.Node) -> set[fx.Node]:
    """The calls that a value is made of."""
    found: set[fx.Node] = set()
    pending = [result]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _numbered(calls: Any) -> dict[tuple[str, str, int], str]:
    """Names of calls by what they call and the how-manieth call of it they are."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for call, target, name in calls:
        seen[call, target] += 1
        found[call, target, seen[call, target]] = name
    return found


def _refs(value: Any, names: Mapping[fx.Node, str]) -> Any:
    """Arguments of an fx call with references into the model graph."""
    named = fx.map_arg(value, lambda n: _Name(names[n]))
    return map_values(_plain(named), lambda ref: ref)


class _Name(str):
    """A node's name on its way to a `Ref`; fx maps arguments to plain values only."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Name):
        return Ref(str(value))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    return value


def _samples(info: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Meta tensors of two batch sizes for a value of the graph."""
    if not isinstance(info, TensorInfo):
        return None
    dtype = getattr(torch, info.dtype)
    shapes = ([d.at(batch) if isinstance(d, Batch) else d for d in info.shape] for batch in BATCHES)
    low, high = (torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
    return low, high
