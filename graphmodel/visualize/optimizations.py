"""What the optimizations do to a model, for its picture: a line for each, and a badge on every call that it changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from graphmodel.graph.types import ModelGraph, Node
from graphmodel.passes.manager import run_passes
from graphmodel.passes.pipeline import OPTIMIZATIONS
from graphmodel.passes.switches import among, chosen_passes


@dataclass(frozen=True)
class Optimizations:
    """What they do.

    Attributes:
        lines: what each pass did, as `graphmodel explain` says it.
        badges: by call of the model graph, the names of the passes that change it.
    """

    lines: tuple[str, ...] = ()
    badges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def optimizations_of(graph: ModelGraph, passes: Collection[str] | None = None) -> Optimizations:
    """What the optimizations do to a graph.

    Args:
        graph: a model graph; one before its passes is not optimized.
        passes: names of those that are on; None takes them from the spec.
    """
    if not graph.history:
        return Optimizations()
    chosen = chosen_passes(graph.spec) if passes is None else passes
    badges: dict[str, tuple[str, ...]] = {}
    # The calls of the model graph that each call stands for.
    origin = {name: frozenset({name}) for name in graph.nodes}
    now = graph
    for each in among(OPTIMIZATIONS, chosen):
        after = run_passes(now, (each,))
        changed = {name: node for name, node in now.nodes.items() if _is_changed(node, after.nodes.get(name))}
        for name in changed:
            for source in origin[name]:
                badges[source] = tuple(dict.fromkeys((*badges.get(source, ()), each.name)))
        for name, node in after.nodes.items():
            if name not in now.nodes:
                same = [origin[n] for n, old in changed.items() if node.call == "module" and old.target == node.target]
                origin[name] = frozenset().union(*same)
        now = after
    return Optimizations(now.summary[len(graph.summary) :], badges)


def _is_changed(before: Node, after: Node | None) -> bool:
    """Whether a call of a module is gone, calls something else, or has other facts."""
    if before.call != "module":
        return False
    if after is None:
        return True
    return (before.call, before.target, before.facts.of_call()) != (after.call, after.target, after.facts.of_call())
