"""Runs the same component on the same value once: equal calls become one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graphmodel.components.structure import hashable
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.tracing.proxy import FACTORIES


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
        for name, node in graph.nodes.items():
            key = call_key(node.reading(rename))
            if key is None:
                continue
            if key in first:
                rename[name] = first[key]
            else:
                first[key] = name
        merged = [graph.nodes[n] for n in rename if graph.nodes[n].call == "module"]
        saved = (f"merge_calls: {len(merged)} module calls run once instead of again",) if merged else ()
        return replace(graph.merge(rename), saved=(*graph.saved, *saved))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        keys = [k for k in map(call_key, after.nodes.values()) if k is not None]
        if len(keys) != len(set(keys)):
            raise InvalidGraph("merge_calls left equal calls")


def call_key(node: Node) -> Any:
    """What two calls must share to be one; None for calls that may not be merged."""
    impure = node.call == "placeholder" or node.target in FACTORIES or node.facts.in_place
    if impure or (node.call == "method" and str(node.target).endswith("_")):
        return None
    try:
        key = (node.call, node.target, hashable(node.args), hashable(dict(node.kwargs)))
        hash(key)
    except TypeError:
        return None
    return key
