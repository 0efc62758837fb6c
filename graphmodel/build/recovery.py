"""What of a bound spec can still be checked after mistakes: everything that does not depend on one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphmodel.build.bind import BoundEdge, BoundModel
from graphmodel.build.freeze_patterns import covers_any, named, report_uncovered, with_parents
from graphmodel.diagnostics import Collector, Diagnostic, choices_help
from graphmodel.graph.types import trunk_path
from graphmodel.spec.model import ModelSpec
from graphmodel.spec.recovery import LOST, Findings


def sound_part(bound: BoundModel, errors: Sequence[Diagnostic]) -> BoundModel | None:
    """The outputs that depend on nothing that has an error; None if none is left.

    Args:
        bound: a spec with its names bound as far as they could be.
        errors: everything that is wrong with it.
    """
    spec, findings = bound.spec, Findings(errors)
    inputs = {name for name, item in spec.inputs.items() if findings.concern(item.at) and item.at[0] == "inputs"}
    inputs |= {name for name, item in spec.inputs.items() if item.shape is None and item.views is None}
    inputs |= {name for name, item in spec.inputs.items() if inputs & set(item.companions)}
    wrong = {n for n, t in spec.trunks.items() if n not in bound.trunks or findings.concern(t.at)}
    trunks = {None} | {n for n, t in spec.trunks.items() if n not in wrong and t.copy_of not in wrong}
    heads = {n for n, h in spec.heads.items() if findings.concern(h.at)}
    heads |= {n for n, h in spec.heads.items() if h.copy_of in heads}

    def is_sound(edge: BoundEdge) -> bool:
        written = edge.spec
        head = spec.heads.get(written.head or "")
        if written.head is not None and (head is None or head.name in heads or len(edge.chain) < len(head.chain)):
            return False
        return len(edge.sources) == len(written.sources) and not (
            findings.concern(written.at)
            or any(
                findings.concern(s.at) or s.input in (*inputs, LOST) or s.trunk not in trunks for s in written.sources
            )
        )

    kept = [edge for edge in bound.edges if is_sound(edge)]
    while True:
        names = {edge.spec.output for edge in kept}
        rest = [e for e in kept if all(s.output.partition(".")[0] in {"", *names} for s in e.spec.sources)]
        if len(rest) == len(kept):
            break
        kept = rest
    return _only(bound, kept) if kept else None


def _only(bound: BoundModel, edges: list[BoundEdge]) -> BoundModel:
    """The bound spec with these outputs alone."""
    spec = bound.spec
    sources = [s for edge in edges for s in edge.spec.sources]
    inputs = {s.input for s in sources}
    inputs |= {c for n in inputs if n in spec.inputs for c in spec.inputs[n].companions}
    trunks = {s.trunk for s in sources}
    trunks |= {t.copy_of for n, t in spec.trunks.items() if n in trunks}
    heads = {edge.spec.head for edge in edges}
    heads |= {h.copy_of for n, h in spec.heads.items() if n in heads}
    part: ModelSpec = spec.model_copy(
        update={
            "edges": tuple(edge.spec for edge in edges),
            "inputs": {n: item for n, item in spec.inputs.items() if n in inputs},
            "trunks": {n: item for n, item in spec.trunks.items() if n in trunks},
            "heads": {n: item for n, item in spec.heads.items() if n in heads},
            "outputs": _kept(spec.outputs, {edge.spec.output for edge in edges}),
            "freeze": (),  # `check_patterns` has reported them
        }
    )
    return replace(
        bound, spec=part, edges=tuple(edges), trunks={n: t for n, t in bound.trunks.items() if n in part.trunks}
    )


def _kept(outputs: Any, names: set[str]) -> Any:
    """The nested names of outputs without those that are not among these."""
    if isinstance(outputs, tuple):
        return tuple(kept for item in outputs if (kept := _kept(item, names)) is not None)
    return outputs if str(outputs) in names or str(outputs).partition(".")[0] in names else None


def check_patterns(bound: BoundModel, report: Collector) -> None:
    """Reports freeze patterns that cover nothing in the trunks and cannot be about anything else."""
    spec = bound.spec
    names = named({trunk.component.name: trunk.component for trunk in bound.trunks.values()})
    paths = with_parents(names)
    unknown = [f"heads.{n}" for n in spec.heads]
    unknown += [trunk_path(spec, n) for n in spec.trunks if n not in bound.trunks]
    for i, pattern in enumerate(spec.freeze):
        if pattern != "all" and not _may_be_in(pattern, unknown) and not covers_any(pattern, paths):
            report_uncovered(spec, i, pattern, [*names, *unknown], report)


def _may_be_in(pattern: str, missing: list[str]) -> bool:
    """Whether a pattern may cover something in one of these components, which are not there to look."""
    start = re.split(r"[*?\[]", pattern)[0]
    return pattern.startswith("vissl:") or any(p.startswith(start) or start.startswith(p) for p in missing)


def check_stages(bound: BoundModel, report: Collector) -> None:
    """Reports names under `checkpoint` that no trunk has; whether the others are stages is up to the pass."""
    spec = bound.spec
    if not isinstance(spec.checkpoint, tuple) or len(bound.trunks) < len(spec.trunks):
        return
    paths: set[str] = set()
    stages: list[str] = []
    for trunk in bound.trunks.values():
        full, inside = trunk.component.name, [name for name, _ in trunk.component.meta.named_modules()]
        paths |= {*inside, *(f"{full}.{name}" for name in inside), *(f"{trunk.spec.name}.{name}" for name in inside)}
        stages += [name for name, child in trunk.component.meta.named_children() if any(child.children())]
    for i, stage in enumerate(spec.checkpoint):
        if stage not in paths:
            report.add(not_a_stage(spec, i, stage, stages))


def not_a_stage(spec: ModelSpec, i: int, name: str, stages: Sequence[str]) -> Diagnostic:
    """The finding about a name under `checkpoint` that no stage of a trunk has.

    Args:
        spec: the spec.
        i: the name's position under `checkpoint`.
        name: the name.
        stages: those that trunks have.
    """
    span = spec.span(("checkpoint", i)) or spec.span(("checkpoint",))
    help = choices_help(name, list(dict.fromkeys(stages)), "stages")
    return Diagnostic("GM407", f"`{name}` is not a stage of a trunk", span, help, path=f"checkpoint[{i}]")
