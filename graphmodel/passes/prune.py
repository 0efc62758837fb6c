"""Removes calls that no output needs, and components that no call is left for."""

from __future__ import annotations

from graphmodel.graph.types import InvalidGraph, ModelGraph
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult
from graphmodel.tracing.choices import CHECKS


class Prune:
    """Keeps what the outputs reach, and inputs.

    Example:
        >>> from dataclasses import replace
        >>> from graphmodel.passes._example import example
        >>> graph = example({"images": {"stage1": None, "stage2": None}})
        >>> cut = replace(graph, outputs={"stage1": graph.outputs["stage1"]})
        >>> print(cut)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images)
          %norm: N×4×6×6 = trunk trunk.norm(%conv)
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          %stage2: N×4×2×2 = trunk trunk.stage2(%stage1) features=('stage2',)
          return stage1: stage1=%stage1
        >>> print(Prune().run(cut).graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images)
          %norm: N×4×6×6 = trunk trunk.norm(%conv)
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          return stage1: stage1=%stage1
    """

    name = "prune"
    switch: Switch = "always"
    requires: frozenset[str] = frozenset()

    def run(self, graph: ModelGraph) -> PassResult:
        alive = reachable(graph)
        dead = [name for name, n in graph.nodes.items() if name not in alive and n.call != "placeholder"]
        called = graph.called_components()
        if not dead and len(called) == len(graph.components):
            return PassResult(graph, changed=False)
        return PassResult(
            graph.drop(dead), changed=True, summary=f"{len(dead)} call{'s' * (len(dead) > 1)} removed" if dead else ""
        )

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        dead = {n for n, node in after.nodes.items() if node.call != "placeholder"} - reachable(after)
        if dead:
            raise InvalidGraph(f"prune left dead calls: {', '.join(sorted(dead))}")


def reachable(graph: ModelGraph) -> set[str]:
    """Nodes that an output needs. A trunk's in-place calls were kept by the tracer as calls that later ones read.

    A trunk's assertions and checks have no readers; they are kept with what is needed after them of the trunk pass that
    they belong to.
    """
    needed = graph.needed_by(n for o in graph.outputs.values() for n in o.parts.values())
    last = {n.scope: i for i, (name, n) in enumerate(graph.nodes.items()) if name in needed}
    asserted = [
        name
        for i, (name, n) in enumerate(graph.nodes.items())
        if n.call == "function" and n.target in CHECKS and i < last.get(n.scope, -1)
    ]
    return needed | graph.needed_by(asserted)
