"""Runs the same component on the same value once: equal calls become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.components.structure import hashable
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.passes.manager import Switch
from graphmodel.passes.purity import why_impure
from graphmodel.passes.result import PassResult
from graphmodel.tracing.proxy import FACTORIES


class MergeCalls:
    """Equal calls on equal values are one call.

    A module that draws random numbers or changes its buffers in training mode is still called as often as the spec
    says: one dropout mask is not two, and running statistics move once for each call.

    Example:
        >>> from graphmodel.passes._example import example
        >>> probe = {"probe": {"mlp": {"dims": ["auto", 2]}}}
        >>> graph = example([{"from": "images.flatten", "head": "probe", "as": name} for name in "ab"], heads=probe)
        >>> print("\\n".join(str(graph).splitlines()[6:]))
          %flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)
          %a: N×2 = head heads.probe(%flatten)
          %b: N×2 = head heads.probe(%flatten)
          return a: a=%a
          return b: b=%b
        >>> print("\\n".join(str(MergeCalls().run(graph).graph).splitlines()[6:]))
          %flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)
          %a: N×2 = head heads.probe(%flatten)
          return a: a=%a
          return b: b=%a
    """

    name = "merge_calls"
    switch: Switch = "on"
    requires: frozenset[str] = frozenset({"prune"})

    def run(self, graph: ModelGraph) -> PassResult:
        rename, kept = _plan(graph)
        notes = tuple(
            Diagnostic("GM401", f"not merged: `{node.target}` {reason}", node.span, severity="note", path=node.name)
            for node, reason in kept
        )
        if not rename:
            return PassResult(graph, changed=False, notes=notes)
        modules = [graph.nodes[n] for n in rename if graph.nodes[n].call == "module"]
        several = "s run" if len(modules) > 1 else " runs"
        summary = f"{len(modules)} module call{several} once instead of again" if modules else ""
        return PassResult(graph.merge(rename), changed=True, summary=summary, notes=notes)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if _plan(after)[0]:
            raise InvalidGraph("merge_calls left equal calls")


def _plan(graph: ModelGraph) -> tuple[dict[str, str], list[tuple[Node, str]]]:
    """The node that takes over, by the name of the one that goes; and calls that are equal and stay, with a reason."""
    rename: dict[str, str] = {}
    first: dict[Any, str] = {}
    kept: list[tuple[Node, str]] = []
    reasons: dict[Any, str | None] = {}
    for name, node in graph.nodes.items():
        key = call_key(node, rename)
        if key is None:
            continue
        if key not in first:
            first[key] = name
            continue
        if key not in reasons:  # finding out runs the call
            reasons[key] = why_impure(graph, node)
        reason = reasons[key]
        if reason is None:
            rename[name] = first[key]
        else:
            kept.append((node, reason))
    return rename, kept


def call_key(node: Node, rename: Mapping[str, str]) -> Any:
    """What two calls must share to be one; None for calls that may not be merged."""
    # A copy belongs to the one call that changes it in place.
    impure = node.call == "placeholder" or node.target in FACTORIES or node.facts.in_place or bool(node.facts.copied)
    if impure or (node.call == "method" and str(node.target).endswith("_")):
        return None
    node = node.reading(rename)
    try:
        key = (node.call, node.target, hashable(node.args), hashable(dict(node.kwargs)))
        hash(key)
    except TypeError:
        return None
    return key
