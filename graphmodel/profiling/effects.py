"""What each pass does to a graph: totals before and after, and what it declined."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.manager import Pass, run_passes
from graphmodel.passes.training_step import simulate_step
from graphmodel.profiling.flops import count_flops
from graphmodel.profiling.parameters import Parameters

BATCH = 2
"""The batch whose activations are counted: normalization over the batch needs more than one sample."""


@dataclass(frozen=True)
class Totals:
    """What a graph costs.

    Attributes:
        trunk_passes: how often values go through trunks: the calls of the modules that are called most.
        calls: calls of modules.
        flops: floating-point operations of one forward pass in eval mode, for one sample.
        parameters: parameters that the calls use.
        trained: those of them that train.
        activations: bytes that a training step keeps for one sample at the end of the forward pass; None if it cannot
            be run on the meta device.
    """

    trunk_passes: int
    calls: int
    flops: int
    parameters: int
    trained: int
    activations: int | None


@dataclass(frozen=True)
class Effect:
    """What a pass did.

    Attributes:
        name: the pass.
        status: `changed`, `unchanged`, or `off`.
        summary: what it did, in a few words.
        declined: what it did not do and why.
        before: totals before it.
        after: totals after it.
    """

    name: str
    status: str
    summary: str
    declined: tuple[Diagnostic, ...]
    before: Totals
    after: Totals

    @property
    def saved(self) -> dict[str, int]:
        """What became less, or more if negative."""
        before, after = asdict(self.before), asdict(self.after)
        both = {key: (before[key], after[key]) for key in before if None not in (before[key], after[key])}
        return {key: one - other for key, (one, other) in both.items() if one != other}

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        declined = [note.to_dict() for note in self.declined]
        return {
            "name": self.name,
            "status": self.status,
            "summary": self.summary,
            "saved": self.saved,
            "declined": declined,
        }


def totals(graph: ModelGraph, rows: Mapping[str, int] | None = None) -> Totals:
    """What a graph costs.

    Args:
        graph: a graph, before or after its passes.
        rows: the number of rows of each input for one sample; an optimized graph has those of its model graph.
    """
    parameters = Parameters(graph).of(graph.nodes.values())
    runs: dict[str, dict[str, int]] = {}
    for node in graph.nodes.values():
        if node.kind == "trunk" and node.call == "module":
            of_trunk = runs.setdefault(node.component, {})
            of_trunk[str(node.target)] = of_trunk.get(str(node.target), 0) + 1
    try:
        kept = simulate_step(graph, BATCH, rows=rows).kept // BATCH
    except Exception:  # whatever a module raises that cannot run on the meta device in training mode
        kept = None
    return Totals(
        trunk_passes=sum(max(times.values()) for times in runs.values()),
        calls=sum(node.call == "module" for node in graph.nodes.values()),
        flops=sum(count_flops(graph, rows).values()),
        parameters=parameters.total,
        trained=parameters.trainable,
        activations=kept,
    )


def effects(
    graph: ModelGraph, pipeline: Sequence[Pass], chosen: Collection[str], rows: Mapping[str, int] | None = None
) -> tuple[ModelGraph, tuple[Effect, ...]]:
    """The graph after passes, and what each did.

    Args:
        graph: the graph before them.
        pipeline: the passes in order.
        chosen: names of those that are on.
        rows: the number of rows of each input for one sample; those of `graph` if None.

    Raises:
        CompileError: what a pass finds wrong with the spec.
    """
    rows = rows_per_sample(graph) if rows is None else rows
    found: list[Effect] = []
    now = totals(graph, rows)
    for each in pipeline:
        if each.switch != "always" and each.name not in chosen:
            found.append(Effect(each.name, "off", "", (), now, now))
            continue
        result = run_passes(graph, (each,))
        changed = result.nodes is not graph.nodes or result.components is not graph.components
        after = totals(result, rows) if changed else now
        summary = next((text.partition(": ")[2] for text in result.summary[len(graph.summary) :]), "")
        declined = result.notes[len(graph.notes) :]
        found.append(Effect(each.name, "changed" if changed else "unchanged", summary, declined, now, after))
        graph, now = result, after
    return graph, tuple(found)
