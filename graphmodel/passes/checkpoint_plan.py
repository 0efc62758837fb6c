"""Chooses which stages to recompute, so that a training step fits a memory budget at the least cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from graphmodel.graph.types import ModelGraph
from graphmodel.passes.training_step import Section, Step, simulate_step

_TRIES = 6
"""How often a choice is corrected: the table adds stages up, a simulated step does not."""

Unit = tuple[str, ...]
"""The names of the calls of a stage."""


@dataclass(frozen=True)
class Row:
    """A row of the activation table: bytes of a step at one stage if everything before it keeps its activations.

    Attributes:
        kept: bytes that the stage keeps for the backward pass and would not keep if it were recomputed.
        before: the sum of `kept` over the stages before it.
        keep: the peak in the stage's forward and backward pass.
        recompute: the same if it is recomputed; None if it cannot be.
        after: the peak between its forward pass and that of the next stage.
        flops: operations of recomputing it.
    """

    kept: int
    before: int
    keep: int
    recompute: int | None
    after: int
    flops: int


@dataclass(frozen=True)
class Plan:
    """The stages to recompute and what comes of it.

    Attributes:
        recomputed: the stages.
        plain: the step if nothing is recomputed.
        step: the step of this plan.
        flops: operations that are done twice.
        forward_flops: operations of the forward pass.
        fits: whether the budget is met; if not, this is the plan with the smallest peak.
    """

    recomputed: tuple[Unit, ...]
    plain: Step
    step: Step
    flops: int
    forward_flops: int
    fits: bool


def plan(graph: ModelGraph, batch: int, budget: int, units: Sequence[Unit]) -> Plan:
    """The cheapest stages to recompute so that a training step takes at most `budget` bytes.

    Two simulated steps, one that recomputes nothing and one that recomputes every stage, give the activation table.
    A stage's peak is then known for any choice: what the stages before it keep is subtracted or added. The choice is
    optimal for the table; another simulated step checks it, and if that one is above the budget, the choice is made
    again with less.

    Args:
        graph: the graph.
        batch: the number of samples.
        budget: bytes of parameters, buffers, gradients and activations at the worst moment.
        units: the stages, in execution order.
    """
    plain = simulate_step(graph, batch, recomputed=(), units=units)
    forward_flops = sum(s.flops for name, s in plain.sections.items() if not _of(name, "backward") and name != "heads")
    if plain.total <= budget or not units:
        return Plan((), plain, plain, 0, forward_flops, plain.total <= budget)
    able = {unit for unit in units if not plain.changed_inputs.intersection(unit)}
    table = activation_table(plain, simulate_step(graph, batch, recomputed=able, units=units), units, able)

    def planned(chosen: Collection[int]) -> Plan:
        recomputed = tuple(units[i] for i in sorted(chosen))
        step = simulate_step(graph, batch, recomputed=recomputed)
        flops = sum(table[i].flops for i in chosen)
        return Plan(recomputed, plain, step, flops, forward_flops, step.total <= budget)

    room = budget - plain.weights
    for _ in range(_TRIES):
        chosen = cheapest(table, room)
        if chosen is None:
            break
        found = planned(chosen)
        if found.fits:
            return found
        room -= found.step.total - budget
    smallest = cheapest(table, smallest_peak(table))
    assert smallest is not None
    return planned(smallest)


def activation_table(plain: Step, again: Step, units: Sequence[Unit], able: Collection[Unit]) -> list[Row]:
    """The table from two steps: one that recomputes nothing and one that recomputes all units that are `able`."""
    none = Section()
    rows: list[Row] = []
    before = 0
    for i, unit in enumerate(units):

        def peak(step: Step, i: int = i) -> int:
            return max(step.sections.get((name, i), none).peak for name in ("forward", "backward"))

        together = max(0, plain.sections["after", i].end - again.sections["after", i].end)
        kept = max(0, together - before) if unit in able else 0
        rows.append(
            Row(
                kept=kept,
                before=before,
                keep=peak(plain) - before,
                recompute=peak(again) if unit in able else None,
                after=max(plain.sections["after", i].peak - before - kept, again.sections["after", i].peak),
                flops=plain.sections["forward", i].flops,
            )
        )
        before += kept
    return rows


def cheapest(table: Sequence[Row], room: int) -> frozenset[int] | None:
    """The stages to recompute at the least cost so that the peak is at most `room`; None if there are none.

    Dynamic programming over the stages: of all choices for the first ones, those remain that no other choice beats in
    both cost and kept bytes.
    """
    states: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]  # bytes kept, cost, stages that are recomputed
    for i, row in enumerate(table):
        found = []
        for kept, cost, chosen in states:
            if kept + row.keep <= room and kept + row.kept + row.after <= room:
                found.append((kept + row.kept, cost, chosen))
            if row.recompute is not None and max(row.recompute, row.after) + kept <= room:
                found.append((kept, cost + row.flops, (*chosen, i)))
        states = []
        for state in sorted(found):
            if not states or state[1] < states[-1][1]:
                states.append(state)
    return frozenset(min(states, key=lambda state: state[1])[2]) if states else None


def smallest_peak(table: Sequence[Row]) -> int:
    """The least room for which there is a choice, to the byte."""
    low, high = 0, max(row.before + max(row.keep, row.kept + row.after) for row in table)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cheapest(table, middle) is not None else (middle + 1, high)
    return low


def _of(name: object, kind: str) -> bool:
    return isinstance(name, tuple) and name[0] == kind
