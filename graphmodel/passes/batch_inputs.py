"""Joins inputs of equal shape into one batch for the stages of a trunk, and the heads, that they share."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.passes.batch_lanes import (
    Lane,
    constants_of,
    counterparts,
    groups_of_lanes,
    sample_of,
    signature,
)
from graphmodel.passes.batch_mixing import Verdict, follow, mutates
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult
from graphmodel.passes.shared_calls import SharedCall, rewritten


class BatchInputs:
    """Passes of several inputs or views through one trunk become one pass of their joined batches.

    The inputs must have one shape and dtype. They are joined as far as every call is proven to compute each sample on
    its own, in training and in eval mode alike, and divided again by the sizes of their batches before a call that
    mixes the batch or draws random numbers, and where one of them ends. Heads that read several of them run once too.
    Numbers are those of separate passes up to the rounding of larger matrix products.

    Example:
        >>> from graphmodel.passes._example import example
        >>> mapping = {"images": {"stage1": None}, "patches": {"stage1": None}}
        >>> inputs = {"images": [3, 8, 8], "patches": [3, 8, 8]}
        >>> graph = example(mapping, inputs=inputs, freeze=["trunk"])
        >>> print(graph)
        graph example(images, patches)
          %images: N×3×8×8 = input
          %patches: N×3×8×8 = input
          %images_conv: N×4×6×6 = trunk trunk.conv(%images)
          %images_norm: N×4×6×6 = trunk trunk.norm(%images_conv)
          %images_stage1: N×4×4×4 = trunk trunk.stage1(%images_norm) features=('stage1',)
          %patches_conv: N×4×6×6 = trunk trunk.conv(%patches)
          %patches_norm: N×4×6×6 = trunk trunk.norm(%patches_conv)
          %patches_stage1: N×4×4×4 = trunk trunk.stage1(%patches_norm) features=('stage1',)
          return images_stage1: images_stage1=%images_stage1
          return patches_stage1: patches_stage1=%patches_stage1
        >>> print("\\n".join(str(BatchInputs().run(graph).graph).splitlines()[3:7]))
          %batched_conv_input: 2N×3×8×8 = op torch.cat([%images, %patches])
          %batched_conv: 2N×4×6×6 = trunk trunk.conv(%batched_conv_input)
          %batched_norm: 2N×4×6×6 = trunk trunk.norm(%batched_conv)
          %batched_stage1: 2N×4×4×4 = trunk trunk.stage1(%batched_norm) features=('stage1',)
    """

    name = "batch_inputs"
    switch: Switch = "off"
    requires: frozenset[str] = frozenset({"prune", "freeze", "checkpoint"})

    def run(self, graph: ModelGraph) -> PassResult:
        plan = _Plan(graph)
        for lanes in groups_of_lanes(graph):
            plan.trunk(lanes)
        plan.heads()
        notes = tuple(plan.notes)
        made = rewritten(graph, plan.calls) if plan.calls else None
        if made is None:
            return PassResult(graph, changed=False, notes=notes)
        called = [graph.nodes[member] for call in plan.calls for member in call.members]
        stages = tuple(dict.fromkeys(str(node.target) for node in called if node.call == "module"))
        made = replace(made, one_batch=tuple(plan.one_batch), shared_stages=stages)
        return PassResult(made, changed=True, summary=_shortened(plan.summary), notes=notes)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        def named(graph: ModelGraph) -> Any:
            return list(graph.inputs), {name: list(output.parts) for name, output in graph.outputs.items()}

        if named(before) != named(after):
            raise InvalidGraph("batch_inputs changed the inputs or outputs")


@dataclass
class _Plan:
    """The shared calls, and what is said about them."""

    graph: ModelGraph
    calls: list[SharedCall] = field(default_factory=list)
    notes: list[Diagnostic] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    one_batch: list[tuple[tuple[str, int | None], ...]] = field(default_factory=list)
    owner: dict[str, tuple[SharedCall, int]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken = {*self.graph.nodes, *self.graph.inputs}
        self.users = self.graph.users()
        self.constants = constants_of(self.graph)
        self.returned = {n for output in self.graph.outputs.values() for n in output.parts.values()}

    def note(self, code: str, node: Node, message: str) -> None:
        self.notes.append(Diagnostic(code, message, node.span, severity="note", path=node.name))

    def add(self, label: str, members: Sequence[str], sizes: Sequence[str], rows: int | None, kept: bool) -> SharedCall:
        name, number = f"batched_{label}", 1
        while name in self.taken:
            name, number = f"batched_{label}_{number}", number + 1
        self.taken.add(name)
        call = SharedCall(name, tuple(members), tuple(sizes), rows, kept)
        self.calls.append(call)
        self.owner.update({member: (call, i) for i, member in enumerate(members)})
        return call

    # -- trunks --------------------------------------------------------------------------------------------------------

    def trunk(self, lanes: list[Lane]) -> None:
        """Shares the calls of several passes as far as that is exact."""
        first, graph = lanes[0], self.graph
        names = _listed([lane.scope for lane in lanes])
        matches = [counterparts(graph, first, lane) for lane in lanes]
        followed = [graph.nodes[name] for name in self.constants]
        verdicts = follow(graph, [*followed, *first.nodes], {name: graph.nodes[name].info for name in first.read})
        legal: dict[str, tuple[int, ...]] = {}
        stopped: Node | None = None
        for node in first.nodes:
            own = [r for r in node.refs() if r not in first.read and r not in self.constants]
            members = tuple(i for i, match in enumerate(matches) if node.name in match)
            if any(r not in legal for r in own):
                continue
            if verdicts[node.name].reason:
                stopped = stopped or node
            elif len(members) > 1:
                legal[node.name] = members
        if stopped is not None:
            self.note(
                "GM410",
                stopped,
                f"{names} are not one batch from `{_shown(stopped)}` on: it {verdicts[stopped.name].reason}",
            )
        kept = self.divisible(first, matches, verdicts, legal)
        stages = [name for name in legal if graph.nodes[name].call == "module"]
        alone = graph.module_of(graph.nodes[stages[0]]) if len(stages) == 1 and stopped is not None else None
        if not stages or (alone is not None and not list(alone.children())):  # one layer is not worth the copies
            if stopped is None:
                node = first.nodes[0]
                self.note("GM410", node, f"{names} are not one batch: their values cannot be divided between them")
            return
        prefix = f"{first.scope}_"
        for name, members in legal.items():
            replaced = [matches[i][name] for i in members]
            sizes = [lanes[i].read[0] for i in members]
            self.add(name.removeprefix(prefix), replaced, sizes, verdicts[name].rows, name in kept)
        several = max(len(legal[name]) for name in stages)
        joined = [lanes[i] for i in range(len(lanes)) if any(i in legal[name] for name in stages)]
        inputs = [found for lane in joined if (found := _input(graph, lane.read[0])) is not None]
        if len(inputs) > 1 and any(None in graph.accepts.get(n, ((None,),))[v or 0] for n, v in inputs):
            self.one_batch.append(tuple(inputs))
        calls = [n for n in first.nodes if n.call == "module"]
        part = "" if len(stages) == len(calls) else f" in {len(stages)} of {len(calls)} calls"
        self.summary.append(f"{several} passes through `{first.component}` -> 1{part} ({names})")

    def divisible(
        self, first: Lane, matches: Sequence[Mapping[str, str]], verdicts: Mapping[str, Verdict], legal: dict[str, Any]
    ) -> set[str]:
        """Removes calls whose results other calls read and that cannot be divided; returns those that stay beside.

        A number, such as the size of a batch, is computed again for each input.
        """
        kept: set[str] = set()
        changed = True
        while changed:
            changed = False
            for name in reversed(list(legal)):
                if not any(self.is_read_apart(i, matches, name, legal, kept) for i in legal[name]):
                    continue
                verdict, node = verdicts[name], self.graph.nodes[name]
                if not verdict.is_tensor and not node.component and name not in kept:
                    kept.add(name)
                    changed = True
                    continue
                if name in kept or (
                    verdict.is_tensor
                    and verdict.rows is not None
                    and not node.facts.in_place
                    and not any(self.is_changed(i, matches, name, legal) for i in legal[name])
                ):
                    continue
                for gone in self.readers(name, legal):
                    kept.discard(gone)
                    del legal[gone]
                changed = True
                break
        return kept

    def is_read_apart(self, lane: int, matches: Any, name: str, legal: Mapping[str, Any], kept: set[str]) -> bool:
        """Whether something reads the value of one input alone, or of fewer inputs."""
        member = matches[lane][name]
        shared = {matches[lane][n] for n, lanes in legal.items() if lanes == legal[name] and n not in kept}
        return member in self.returned or any(user not in shared for user in self.users[member])

    def is_changed(self, lane: int, matches: Any, name: str, legal: Mapping[str, Any]) -> bool:
        """Whether a reader of a part of the value changes it in place, which the other parts would see."""
        member = matches[lane][name]
        shared = {matches[lane][n] for n, lanes in legal.items() if lanes == legal[name]}
        readers = [self.graph.nodes[user] for user in self.users[member] if user not in shared]
        return any(node.kind == "trunk" and mutates(self.graph, node) for node in readers)

    def readers(self, name: str, legal: Mapping[str, Any]) -> list[str]:
        """A call and all shared ones that depend on it."""
        gone = {name}
        for other in legal:
            if gone & set(self.graph.nodes[other].refs()):
                gone.add(other)
        return [n for n in legal if n in gone]

    # -- heads ---------------------------------------------------------------------------------------------------------

    def heads(self) -> None:
        """Shares the operations and heads that read parts of shared values, and heads that read several vectors."""
        found = True
        while found:
            found = sum(self.share(nodes) for nodes in self.candidates()) > 0
        calls: dict[str, list[Node]] = {}
        for node in self.graph.nodes.values():
            vector = len(node.refs()) == 1 and sample_of(self.graph.nodes[node.refs()[0]].info)
            known = node.name in self.owner or node.name in self.verdicts
            if node.kind == "head" and node.call == "module" and vector and len(vector[0]) == 1 and not known:
                calls.setdefault(f"{node.target} {vector}", []).append(node)
        for nodes in calls.values():
            if len(nodes) > 1:
                self.share(nodes)

    def candidates(self) -> list[list[Node]]:
        """Equal calls that are not in a trunk and read the parts of the same shared values."""
        found: dict[Hashable, dict[int, Node]] = {}
        for node in self.graph.nodes.values():
            if node.kind not in ("op", "head") or node.name in self.owner or node.name in self.verdicts:
                continue
            owners = [self.owner.get(r) for r in node.refs()]
            positions = {o[1] for o in owners if o is not None and o[0].rows}
            if None in owners or len(positions) != 1 or node.facts.of_order() or node.facts.copied:
                continue
            key = signature(node, lambda ref: self.owner[ref][0].name, str(node.target))
            if key is not None:
                found.setdefault(key, {}).setdefault(positions.pop(), node)
        return [[nodes[i] for i in sorted(nodes)] for nodes in found.values() if len(nodes) > 1]

    def share(self, nodes: list[Node]) -> bool:
        """Shares equal calls outside of trunks if that is exact."""
        first, graph = nodes[0], self.graph
        verdict = follow(graph, [first], {name: graph.nodes[name].info for name in first.refs()})[first.name]
        self.verdicts.update((node.name, verdict) for node in nodes)
        names = _listed([node.name for node in nodes])
        if verdict.reason or not verdict.rows or not verdict.is_tensor:
            if first.call == "module":
                reason = f"it {verdict.reason}" if verdict.reason else "its result cannot be divided between them"
                self.note("GM411", first, f"`{first.target}` runs once for each of {names}: {reason}")
            return False
        owners = [self.owner.get(node.refs()[0]) for node in nodes]
        if all(o is not None for o in owners):
            sizes = [o[0].sizes[o[1]] for o in owners if o is not None]
            rows = verdict.rows * (owners[0][0].rows or 1) if owners[0] is not None else verdict.rows
            same = len({o[0].rows for o in owners if o is not None}) == 1
        else:
            sizes, rows, same = [node.refs()[0] for node in nodes], verdict.rows, True
        label = str(first.target).removeprefix("heads.").replace(".", "_") if first.call == "module" else first.name
        call = self.add(label, [node.name for node in nodes], sizes, rows, False)
        if same and rewritten(graph, self.calls) is not None:
            if first.call == "module":
                self.summary.append(f"{len(nodes)} calls of `{first.target}` -> 1 ({names})")
            return True
        self.calls.remove(call)
        for node in nodes:
            del self.owner[node.name]
        if first.call == "module":
            self.note("GM411", first, f"`{first.target}` runs once for each of {names}: one depends on another")
        return False


def _input(graph: ModelGraph, name: str) -> tuple[str, int | None] | None:
    """The input, and the position of its first view, that a value comes from."""
    view: int | None = None
    node = graph.nodes[name]
    while node.call != "placeholder":
        if not node.refs():
            return None
        source = graph.nodes[node.refs()[0]]
        if node.target is operator.getitem and source.call == "placeholder":
            view = int(node.args[1])
        node = source
    return node.name, view


def _shortened(lines: Sequence[str]) -> str:
    """Several things that were done as one line, the first ones if there are many."""
    more = len(lines) - 3
    return "; ".join([*lines[:3], f"and {more} more"] if more > 1 else lines)


def _shown(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{n}`" for n in names]
    shown = shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if "…" not in shown else ", ".join(shown)
