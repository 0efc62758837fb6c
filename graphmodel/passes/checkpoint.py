"""Chooses the calls whose activations are recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from graphmodel.build.recovery import not_a_stage
from graphmodel.diagnostics import CompileError, Diagnostic, first_line
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.passes import stages
from graphmodel.passes.checkpoint_plan import Plan, Unit, plan
from graphmodel.passes.manager import Switch
from graphmodel.passes.on_meta import changes_its_arguments
from graphmodel.passes.result import PassResult
from graphmodel.spec.sizes import parse_size, size_text


class Checkpoint:
    """Adds the fact `checkpoint`, the number of a call's segment, if the spec asks for it.

    A stage is a call of a trunk's module that itself has several modules. If a single stage is an `nn.Sequential`, such
    as the blocks of a vision transformer, its parts are stages of their own. A frozen trunk, or the frozen beginning of
    one, keeps no activations and is left alone. The spec says what is recomputed:

    - a number divides the stages that a gradient reaches into as many contiguous segments, of lengths that differ by
      one at most; `true` makes each stage a segment. What comes before the first stage belongs to the first segment,
      what follows a stage to the stage's.
    - `every: 2` recomputes every second stage, a list of names the stages of these names, each as its own segment.
    - `memory_budget` with `batch` recomputes the stages that cost least so that a training step fits. Stages that are
      an `nn.Sequential` of blocks are opened for it, and what comes before the first stage is a stage too.

    A stage that changes its input in place cannot be recomputed and is left alone.

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
        if isinstance(asked, tuple):
            return _named(graph, asked).result()
        if isinstance(asked, dict) and "memory_budget" in asked:
            return _within(graph, parse_size(str(asked["memory_budget"])), int(asked["batch"]))
        if isinstance(asked, dict):
            return _every(graph, int(asked["every"])).result()
        return _divided(graph, asked).result()

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if [name for name in after.nodes if name in before.nodes] != list(before.nodes):
            raise InvalidGraph("checkpoint dropped calls or changed their order")


@dataclass
class _Choice:
    """Segments of a graph's calls, and what to say about them.

    Attributes:
        given: the graph that the pass was given.
        graph: the same with stages opened.
        segment: the number of the segment of each call that has one.
        made: the number of segments by trunk.
        notes: what was declined, by what it is about.
    """

    given: ModelGraph
    graph: ModelGraph
    segment: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Diagnostic] = field(default_factory=dict)

    def note(self, about: str, code: str, message: str, path: tuple[str | int, ...] = ()) -> None:
        """Adds a note, once for each thing that it is about."""
        span = self.graph.spec.span(("checkpoint", *path)) or self.graph.spec.span(("checkpoint",))
        self.notes.setdefault(about, Diagnostic(code, message, span, severity="note", path="checkpoint"))

    def frozen(self, component: str) -> None:
        """Notes that no gradient reaches a trunk."""
        reason = f"not checkpointed: no gradient reaches the trunk `{component}`, which keeps no activations"
        self.note(component, "GM404", reason)

    def add(self, component: str, segments: Iterable[Collection[Node]]) -> None:
        """Numbers the segments of a trunk pass."""
        number = 0
        for calls in segments:
            first = next(iter(calls))
            if changes_its_arguments(self.graph, first):
                reason = f"not checkpointed: `{first.target}` changes its input in place, so that it cannot run again"
                self.note(str(first.target), "GM409", reason)
                continue
            number += 1
            self.segment.update((node.name, number) for node in calls)
        self.made[component] = max(self.made.get(component, 0), number)

    def marked(self) -> ModelGraph:
        """The graph with the facts."""
        segment = self.segment
        return self.graph.replace_nodes(
            n.with_facts(checkpoint=segment[n.name]) if n.name in segment else n for n in self.graph.nodes.values()
        )

    def result(self, summary: str = "") -> PassResult:
        """What the pass returns."""
        notes = tuple(self.notes.values())
        if not self.segment:
            return PassResult(self.given, changed=False, notes=notes)
        several = ", ".join(f"{n} segment{'s' * (n > 1)} of `{c}`" for c, n in self.made.items() if n)
        summary = summary or f"the activations of {several} are recomputed in the backward pass"
        return PassResult(self.marked(), changed=True, summary=summary, notes=notes)


def _divided(given: ModelGraph, asked: int) -> _Choice:
    """A number of contiguous segments for each trunk; True is one for each stage."""
    choice = _Choice(given, stages.opened(given, stages.only_sequentials(given)))
    gradient = stages.reached_by_gradient(choice.graph)
    for component, calls in stages.trunk_passes(choice.graph):
        first = next((i for i, node in enumerate(calls) if node.name in gradient), len(calls))
        found = stages.stages_of(choice.graph, [n for n in calls[first:] if n.name in gradient])
        if not found:
            choice.frozen(component)
            continue
        count = len(found) if asked is True else min(asked, len(found))
        if asked is not True and asked > len(found):
            reason = f"{asked} segments were asked for and `{component}` has {len(found)} stages: one for each"
            choice.note(component, "GM403", reason)
        starts = {found[i * len(found) // count] for i in range(1, count)}
        segments: list[list[Node]] = [[]]
        for node in calls[first:]:
            if node.name in starts:
                segments.append([])
            segments[-1].append(node)
        choice.add(component, segments)
    return choice


def _every(given: ModelGraph, step: int) -> _Choice:
    """Every `step`-th stage."""
    choice = _Choice(given, stages.opened(given, stages.only_sequentials(given)))
    gradient = stages.reached_by_gradient(choice.graph)
    for component, calls in stages.trunk_passes(choice.graph):
        found = stages.stages_of(choice.graph, [n for n in calls if n.name in gradient])
        if not found:
            choice.frozen(component)
        elif len(found) < step:
            reason = f"not checkpointed: `every: {step}` of the {len(found)} stages of `{component}` is none"
            choice.note(component, "GM403", reason, ("every",))
        choice.add(component, ([choice.graph.nodes[name]] for name in found[step - 1 :: step]))
    return choice


def _named(given: ModelGraph, names: tuple[str, ...]) -> _Choice:
    """The stages of these names.

    Raises:
        CompileError: GM407 for every name that is not a stage, or has a part that is named, too.
    """
    graph = given
    for name in names:
        while not _called(graph, name):
            holders = {n.target for n in _modules(graph) if any(name.startswith(f"{own}.") for own in _names(n))}
            holding = [n for n in _modules(graph) if n.target in holders and stages.can_open(graph, n)]
            wider = stages.opened(graph, {str(node.target) for node in holding})
            if wider is graph:
                break
            graph = wider
    wrong = [i for i, name in enumerate(names) if not _called(graph, name)]
    if wrong:
        wide = stages.opened(graph, stages.only_sequentials(graph))
        both = [node for each in (graph, wide) for node in _modules(each) if stages.is_stage(each, node)]
        known = list(dict.fromkeys(str(node.path) for node in both))
        findings = []
        for i in wrong:
            part = next((name for name in names if name.startswith(f"{names[i]}.") and _called(given, names[i])), None)
            finding = not_a_stage(graph.spec, i, names[i], known)
            if part is not None:
                message = f"`{names[i]}` is named together with its part `{part}`"
                finding = replace(finding, message=message, help="name one of the two")
            findings.append(finding)
        raise CompileError(findings)
    choice = _Choice(given, graph)
    gradient = stages.reached_by_gradient(graph)
    for component, calls in stages.trunk_passes(graph):
        found = []
        for i, name in enumerate(names):
            for node in (n for n in calls if n.call == "module" and name in _names(n)):
                if node.name in gradient:
                    found.append(node)
                else:
                    reason = f"not checkpointed: no gradient reaches `{node.target}`, which keeps no activations"
                    choice.note(str(node.target), "GM404", reason, (i,))
        order = [node for node in calls if node in found]
        choice.add(component, ([node] for node in order))
    return choice


def _modules(graph: ModelGraph) -> Iterator[Node]:
    return (node for node in graph.nodes.values() if node.kind == "trunk" and node.call == "module")


def _names(node: Node) -> tuple[str, ...]:
    """What a stage may be called: its path in the trunk, in the model, or after the trunk's name."""
    return node.path, str(node.target), str(node.target).removeprefix("trunks.")


def _called(graph: ModelGraph, name: str) -> bool:
    return any(name in _names(node) for node in _modules(graph))


def _within(given: ModelGraph, budget: int, batch: int) -> PassResult:
    """The stages that cost least so that a training step fits the budget.

    Raises:
        CompileError: GM405 if no choice fits, GM408 if a step cannot be run on the meta device.
    """
    graph = given
    while (wider := stages.opened(graph, stages.sequentials(graph))) is not graph:
        graph = wider
    units = _units(graph)
    try:
        found = plan(graph, batch, budget, [unit for _, unit in units])
    except Exception as error:  # whatever a module raises that cannot run on the meta device
        message = f"the memory of a training step cannot be counted: {first_line(error)}"
        raise _failed(graph, "GM408", message, "name the stages to recompute, or write `every: 1`") from error
    choice = _Choice(given, graph)
    plain, total = size_text(found.plain.total), size_text(found.step.total)
    if not found.fits:
        least = f"the smallest peak is {total}" + (f", {plain} without checkpointing" if total != plain else "")
        message = f"a training step at batch {batch} does not fit {size_text(budget)}: {least}"
        raise _failed(graph, "GM405", message, f"write `memory_budget: {total}` or more, or a smaller `batch`")
    if not found.recomputed:
        reason = f"nothing is recomputed: a training step at batch {batch} takes {plain}, within {size_text(budget)}"
        choice.note("", "GM406", reason, ("memory_budget",))
        return choice.result()
    chosen = set(found.recomputed)
    choice.graph = stages.opened_again(given, graph, {name for unit in chosen for name in unit})
    for component, calls in stages.trunk_passes(choice.graph):
        inside = {node.name for node in calls}
        own = [unit for _, unit in units if unit in chosen and unit[0] in inside]
        choice.add(component, ([choice.graph.nodes[name] for name in unit] for unit in own))
    return choice.result(_summary(found, batch, len(units)))


def _units(graph: ModelGraph) -> list[tuple[str, Unit]]:
    """What can be recomputed: the trunk and the calls of each stage that a gradient reaches, and of what precedes."""
    gradient = stages.reached_by_gradient(graph)
    order = {name: i for i, name in enumerate(graph.nodes)}
    units: list[tuple[str, Unit]] = []
    for component, calls in stages.trunk_passes(graph):
        trained = [node.name for node in calls if node.name in gradient]
        found = stages.stages_of(graph, [graph.nodes[name] for name in trained])
        stem = trained[: trained.index(found[0])] if found else []
        if stem and order[stem[-1]] - order[stem[0]] == len(stem) - 1:
            units.append((component, tuple(stem)))
        units += [(component, (name,)) for name in found]
    return sorted(units, key=lambda unit: order[unit[1][0]])


def _summary(found: Plan, batch: int, count: int) -> str:
    more = 100 * found.flops / max(1, found.plain.flops)
    return (
        f"{len(found.recomputed)} of {count} stages are recomputed: a training step at batch {batch} takes "
        f"{size_text(found.step.total)} instead of {size_text(found.plain.total)}, for {more:.0f} % more operations"
    )


def _failed(graph: ModelGraph, code: str, message: str, help: str) -> CompileError:
    span = graph.spec.span(("checkpoint", "memory_budget")) or graph.spec.span(("checkpoint",))
    return CompileError([Diagnostic(code, message, span, help, path="checkpoint.memory_budget")])
