"""Builds the graph of a spec in three steps: names are bound, trunks are opened, heads are wired."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphmodel.build.accepted_shapes import with_accepted_shapes
from graphmodel.build.bind import BoundModel, bind
from graphmodel.build.freeze_patterns import resolve_patterns
from graphmodel.build.graph_writer import GraphWriter
from graphmodel.build.open import open_trunks
from graphmodel.build.recovery import check_patterns, check_stages, sound_part
from graphmodel.build.wire import select_outputs, wire
from graphmodel.diagnostics import Collector, CompileError
from graphmodel.graph.types import ModelGraph
from graphmodel.graph.verify import verify
from graphmodel.spec.model import ModelSpec


def build_graph(
    spec: ModelSpec,
    *,
    trunks: Mapping[str, nn.Module] | None = None,
    allow_imports: bool = False,
    report: Collector | None = None,
) -> ModelGraph:
    """The graph of a spec; no weight is built.

    Every call runs on the meta device for two batch sizes, so every shape is known and checked.

    Args:
        spec: what `load_spec` returned.
        trunks: modules to use for trunks of these names, as they are.
        allow_imports: whether a spec's `module:` may import code.
        report: what the caller has found wrong; it is raised with what is found here.

    Returns:
        The verified graph, before any pass.

    Raises:
        CompileError: GM2xx and GM3xx; all that can be found at once.
    """
    found = Collector(list(spec.errors.found), spec.errors.omitted)
    found.found += report.found if report is not None else []
    bound = bind(spec, found, trunks or {}, allow_imports)
    if not found.errors:
        try:
            return _graph_of(bound)
        except CompileError as error:
            _take(found, error)
    _check_rest(bound, found)
    raise CompileError(found.found, found.omitted)


def _take(found: Collector, error: CompileError) -> None:
    """Adds what an error carries."""
    found.found += error.diagnostics
    found.omitted += error.omitted


def _check_rest(bound: BoundModel, found: Collector) -> None:
    """Adds what else is wrong: step by step, what depends on an error is left out, and the rest is built."""
    if bound.spec.is_only_named:
        return
    if not any(error.code == "GM211" for error in found.errors):
        check_patterns(bound, found)
    check_stages(bound, found)
    rest = sound_part(bound, found.errors)
    while rest is not None:
        try:
            _graph_of(rest)
            return
        except CompileError as error:
            _take(found, error)
            smaller = sound_part(rest, error.diagnostics)
            rest = smaller if smaller is not None and len(smaller.edges) < len(rest.edges) else None


def _graph_of(bound: BoundModel) -> ModelGraph:
    """The graph of a spec whose names are all bound."""
    spec, report = bound.spec, Collector()
    writer = GraphWriter(bound.batches(), list(spec.inputs))
    opened = open_trunks(bound, writer, report)
    wired = wire(bound, opened, writer, report)
    outputs = select_outputs(spec, wired.outputs, report)
    components = {**opened.components, **wired.components}
    frozen = resolve_patterns(spec, components, report)
    report.raise_errors()
    graph = ModelGraph(
        nodes=writer.nodes,
        components=components,
        inputs=spec.inputs,
        outputs=outputs,
        structure=spec.outputs,
        spec=spec,
        frozen=frozen,
    )
    graph = with_accepted_shapes(graph, opened.accepts, writer.batches[0])
    verify(graph)
    return graph
