"""Runs the same component on the same value once: equal calls become one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graphmodel.graph.types import ModelGraph, Node, map_refs
from graphmodel.graph.verify import InvalidGraph
from graphmodel.tracing.tracer import FACTORIES


class MergeCalls:
    """Equal calls on equal values are one call.

    >>> # before: a = trunk.layer1(x); b = trunk.layer1(x); out = head(a), other(b)
    >>> # after:  a = trunk.layer1(x); out = head(a), other(a)
    """

    name = "merge_calls"
    requires: frozenset[str] = frozenset({"prune"})

    def run(self, graph: ModelGraph) -> ModelGraph:
        rename: dict[str, str] = {}
        first: dict[Any, str] = {}
        kept: list[Node] = []
        for name, node in graph.nodes.items():
            node = node.reading(rename)
            key = call_key(node)
            if key is None:
                kept.append(node)
            elif key in first:
                rename[name] = first[key]
            else:
                first[key] = name
                kept.append(node)
        outputs = {
            k: replace(o, parts={key: rename.get(n, n) for key, n in o.parts.items()}) for k, o in graph.outputs.items()
        }
        merged = [graph.nodes[n] for n in rename if graph.nodes[n].call == "module"]
        saved = (f"merge_calls: {len(merged)} module calls run once instead of again",) if merged else ()
        return graph.replace_nodes(kept, outputs=outputs, saved=(*graph.saved, *saved))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        keys = [k for k in map(call_key, after.nodes.values()) if k is not None]
        if len(keys) != len(set(keys)):
            raise InvalidGraph("merge_calls left equal calls")


def call_key(node: Node) -> Any:
    """What two calls must share to be one; None for calls that may not be merged."""
    impure = node.call == "placeholder" or node.target in FACTORIES or node.facts.get("in_place")
    if impure or (node.call == "method" and str(node.target).endswith("_")):
        return None
    try:
        key = (node.call, node.target, _frozen(node.args), _frozen(dict(node.kwargs)))
        hash(key)
    except TypeError:
        return None
    return key


def _frozen(value: Any) -> Any:
    value = map_refs(value, {})
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_frozen(v) for v in value))
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    return (type(value).__name__, value)
