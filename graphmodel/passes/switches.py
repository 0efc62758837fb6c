"""Which passes run: the switches of a spec (`optimize:`) and of `compile(passes=...)`, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from graphmodel.diagnostics import Collector, choices_help
from graphmodel.graph.rows import inputs_read_together
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.manager import Pass, run_passes
from graphmodel.passes.pipeline import OPTIMIZATIONS, PIPELINE
from graphmodel.spec.model import ModelSpec

_FORMS = "true, false, a list of names, or a mapping of names to true or false"


def chosen_passes(spec: ModelSpec, passes: Any = None, report: Collector | None = None) -> tuple[str, ...]:
    """Names of the optimization passes that run.

    Args:
        spec: the spec, with its own switches under `optimize`.
        passes: switches that replace the spec's; None keeps them. See `ModelSpec.optimize` for the forms.
        report: where findings go; without it they are raised.

    Raises:
        CompileError: GM430 for every name that is not an optimization pass, and for switches of another form.
    """
    given = spec.optimize if passes is None else passes
    found = report if report is not None else Collector()
    known = [each.name for each in (*PIPELINE, *OPTIMIZATIONS) if each.switch != "always"]
    names = _names(given)
    if names is None:
        listed = tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else ()
        help = (
            f"write `passes={listed!r}`" if listed and set(listed) <= set(known) else choices_help("", known, "passes")
        )
        found.error("GM430", f"`{'optimize' if passes is None else 'passes'}` takes {_FORMS}, not {given!r}", help=help)
    for i, name in enumerate(names or ()):
        if name in known:
            continue
        place = name if isinstance(given, Mapping) else i
        span = spec.span(("optimize", place), key=isinstance(given, Mapping)) if passes is None else None
        always = any(name == each.name for each in PIPELINE)
        message = f"`{name}` always runs: it carries out what the spec says" if always else f"unknown pass `{name}`"
        found.error("GM430", message, span, choices_help(str(name), known, "passes"))
    if report is None:
        found.raise_errors()
    if names is None:
        return ()
    return tuple(each.name for each in (*PIPELINE, *OPTIMIZATIONS) if each.switch != "always" and _is_on(each, given))


def among(pipeline: Iterable[Pass], chosen: Collection[str]) -> tuple[Pass, ...]:
    """Those passes of a pipeline that always run or are chosen."""
    return tuple(each for each in pipeline if each.switch == "always" or each.name in chosen)


def optimize_graph(graph: ModelGraph, chosen: Collection[str]) -> ModelGraph:
    """The graph that the code is written from.

    Args:
        graph: the model graph.
        chosen: names of the optimizations that run.
    """
    return run_passes(replace(graph, read_together=inputs_read_together(graph)), among(OPTIMIZATIONS, chosen))


def _names(given: Any) -> list[Any] | None:
    """The names in some switches; None if these are not valid switches."""
    if isinstance(given, bool):
        return []
    if isinstance(given, Mapping):
        return list(given) if all(isinstance(value, bool) for value in given.values()) else None
    return list(given) if isinstance(given, Collection) and not isinstance(given, (str, bytes)) else None


def _is_on(each: Pass, given: Any) -> bool:
    default = each.switch == "on"
    if isinstance(given, bool):
        return default and given
    if isinstance(given, Mapping):
        return bool(given.get(each.name, default))
    return each.name in given
