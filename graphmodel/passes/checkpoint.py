"""Divides the stages of each trunk into segments whose activations are recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node, Ref
from graphmodel.passes.freeze import is_frozen_call
from graphmodel.passes.manager import Switch
from graphmodel.passes.on_meta import results_on_meta
from graphmodel.passes.result import PassResult


class Checkpoint:
    """Adds the fact `checkpoint`, the number of a call's segment, if the spec asks for it.

    A stage is a call of a trunk's module that itself has several modules. The stages that a gradient reaches are
    divided into as many contiguous segments as the spec says, of lengths that differ by one at most;
    `checkpoint: true` makes each stage a segment. What comes before the first stage belongs to the first segment, what
    follows a stage to the stage's. If a single stage is an `nn.Sequential`, such as the blocks of a vision transformer,
    its parts are stages of their own. A frozen trunk, or the frozen beginning of one, keeps no activations and is left
    alone.

    Example:
        >>> from graphmodel.passes._example import example
        >>> graph = example({"images": {"flatten": None}}, checkpoint=2)
        >>> print(graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images)
          %norm: N×4×6×6 = trunk trunk.norm(%conv)
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm)
          %stage2: N×4×2×2 = trunk trunk.stage2(%stage1)
          %flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)
          return flatten: flatten=%flatten
        >>> print(Checkpoint().run(graph).graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images) checkpoint=1
          %norm: N×4×6×6 = trunk trunk.norm(%conv) checkpoint=1
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) checkpoint=1
          %stage2: N×4×2×2 = trunk trunk.stage2(%stage1) checkpoint=2
          %flatten: N×16 = trunk trunk.flatten(%stage2) checkpoint=2 features=('flatten',)
          return flatten: flatten=%flatten
    """

    name = "checkpoint"
    switch: Switch = "always"
    requires: frozenset[str] = frozenset({"freeze"})

    def run(self, graph: ModelGraph) -> PassResult:
        asked = graph.spec.checkpoint
        if not asked:
            return PassResult(graph, changed=False)
        given, graph = graph, _opened(graph)
        segment: dict[str, int] = {}
        notes: dict[str, Diagnostic] = {}
        made: dict[str, int] = {}
        gradient = _reached_by_gradient(graph)
        for component, calls in _trunk_passes(graph):
            first = next((i for i, node in enumerate(calls) if node.name in gradient), len(calls))
            stages = _stages(graph, [n for n in calls[first:] if n.name in gradient])
            count = len(stages) if asked is True else min(asked, len(stages))
            if not stages:
                reason = f"not checkpointed: no gradient reaches the trunk `{component}`, which keeps no activations"
                notes.setdefault(component, _note(graph, "GM404", reason))
                continue
            if asked is not True and asked > len(stages):
                reason = f"{asked} segments were asked for and `{component}` has {len(stages)} stages: one for each"
                notes.setdefault(component, _note(graph, "GM403", reason))
            starts = {stages[i * len(stages) // count] for i in range(1, count)}
            number = 1
            for node in calls[first:]:
                number += node.name in starts
                segment[node.name] = number
            made[component] = max(made.get(component, 0), count)
        if not segment:
            return PassResult(given, changed=False, notes=tuple(notes.values()))
        nodes = (n.with_facts(checkpoint=segment[n.name]) if n.name in segment else n for n in graph.nodes.values())
        several = ", ".join(f"{n} segment{'s' * (n > 1)} of `{c}`" for c, n in made.items())
        summary = f"the activations of {several} are recomputed in the backward pass"
        return PassResult(graph.replace_nodes(nodes), changed=True, summary=summary, notes=tuple(notes.values()))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if [name for name in after.nodes if name in before.nodes] != list(before.nodes):
            raise InvalidGraph("checkpoint dropped calls or changed their order")


def _note(graph: ModelGraph, code: str, message: str) -> Diagnostic:
    return Diagnostic(code, message, graph.spec.span(("checkpoint",)), severity="note", path="checkpoint")


def _trunk_passes(graph: ModelGraph) -> Iterator[tuple[str, list[Node]]]:
    """The trunk and the calls of each pass of an input through a trunk, in order."""
    passes: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.kind == "trunk":
            passes.setdefault(node.scope, []).append(node)
    for calls in passes.values():
        component = next((node.component for node in calls if node.component), "")
        if component:
            yield component, calls


def _opened(graph: ModelGraph) -> ModelGraph:
    """The graph with the parts of a trunk's only stage that is an `nn.Sequential` called one by one."""
    targets = set()
    for _, calls in _trunk_passes(graph):
        stages = [graph.nodes[name] for name in _stages(graph, calls)]
        sequential = [node for node in stages if type(graph.module_of(node)) is nn.Sequential]
        if len(sequential) == 1:
            targets.add(sequential[0].target)
    nodes: list[Node] = []
    for node in graph.nodes.values():
        plain = len(node.args) == 1 and not node.kwargs and not node.facts.of_order()
        nodes += _parts(graph, node) if node.target in targets and plain else [node]
    return graph.replace_nodes(nodes) if len(nodes) > len(graph.nodes) else graph


def _parts(graph: ModelGraph, node: Node) -> list[Node]:
    """The calls of the parts of a sequential module; the last one takes over its name and the facts of its value."""
    module = graph.module_of(node)
    assert module is not None
    infos = results_on_meta(graph, node, list(module.children()))
    made: list[Node] = []
    for (name, _), info in zip(module.named_children(), infos, strict=True):
        own = f"{node.name}_{name}"
        while own in graph.nodes:
            own += "_"
        part = replace(
            node,
            name=own,
            target=f"{node.target}.{name}",
            args=(Ref(made[-1].name),) if made else node.args,
            info=info,
            facts=replace(node.facts, features=(), frozen=False),
        )
        made.append(part.with_facts(frozen=is_frozen_call(graph, part, graph.frozen)))
    made[-1] = replace(made[-1], name=node.name, facts=made[-1].facts.taking_over(node.facts))
    return made


def _stages(graph: ModelGraph, calls: list[Node]) -> list[str]:
    """Names of the calls that are stages; of a trunk without any, all calls of modules with parameters."""
    modules = {node.name: module for node in calls if (module := graph.module_of(node)) is not None}
    stages = [name for name, module in modules.items() if len(list(module.modules())) > 2]
    return stages or [name for name, module in modules.items() if any(True for _ in module.parameters())]


def _reached_by_gradient(graph: ModelGraph) -> set[str]:
    """Calls whose values need a gradient: something that trains is behind them, or behind what they read."""
    reached: set[str] = set()
    for name, node in graph.nodes.items():
        path = str(node.target)
        module = graph.module_of(node)
        names = [f"{path}.{n}" for n, _ in module.named_parameters()] if module is not None else []
        if isinstance(graph.tensor_of(node), nn.Parameter):
            names.append(path)
        if any(not is_frozen(n, graph.frozen) for n in names) or reached & set(node.refs()):
            reached.add(name)
    return reached
