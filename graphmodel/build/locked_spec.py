"""The spec of a graph with every value written out: defaults, inferred widths and default features filled in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from graphmodel.build.freeze_patterns import own_patterns
from graphmodel.components.registry import find_trunk
from graphmodel.graph.types import Component, ModelGraph, head_path, trunk_path
from graphmodel.spec.model import Edge, HeadSpec, ModelSpec, Source, TrunkSpec


def resolved_spec(graph: ModelGraph) -> ModelSpec:
    """The spec that builds the same graph with every value written out; saved as `spec.lock.yaml`.

    Every parameter of every trunk and head is there, `auto` is replaced by the inferred width, a source
    without a feature names its trunk's default, and freeze patterns are in the module's own names. Of a slice it says
    what the slice holds.
    """
    spec = graph.spec
    needed = {o.mapped for o in graph.outputs.values()}
    for edge in reversed(spec.edges):  # each comes after those that it reads
        if edge.output in needed:
            needed |= {s.output.partition(".")[0] for s in edge.sources if s.output}
    edges = [e for e in spec.edges if e.output in needed]
    trunks = {s.trunk for e in edges for s in e.sources}
    heads = {e.head for e in edges}
    gone = (
        *(f"heads.{name}" for name in spec.heads if name not in heads),
        *(trunk_path(spec, name) for name in spec.trunks if name not in trunks),
    )
    kept_trunks = trunks | {spec.trunks[n].copy_of for n in trunks if n in spec.trunks}
    kept_heads = heads | {spec.heads[n].copy_of for n in heads if n in spec.heads}
    by_name = graph.components
    paths = {name: trunk_path(spec, name) for name in spec.trunks}
    return spec.model_copy(
        update={
            "inputs": {n: i for n, i in spec.inputs.items() if n in graph.inputs},
            "trunks": {n: _trunk(t, by_name.get(paths[n])) for n, t in spec.trunks.items() if n in kept_trunks},
            "heads": {n: _head(h, graph) for n, h in spec.heads.items() if n in kept_heads},
            "head_defaults": {},
            "edges": tuple(_edge(e, graph, paths) for e in edges),
            "outputs": graph.structure,
            "freeze": tuple(
                pattern
                for pattern in graph.frozen[len(own_patterns(spec)) :]
                if not any(pattern == name or pattern.startswith(f"{name}.") for name in gone)
            ),
        }
    )


def _trunk(trunk: TrunkSpec, component: Component | None) -> TrunkSpec:
    # A module that the caller gave was not built from parameters; the spec keeps what it says about it.
    if component is None or component.given:
        return trunk
    return trunk.model_copy(update={"params": plain_params(component.params)})


def _head(head: HeadSpec, graph: ModelGraph) -> HeadSpec:
    calls = []
    for i, call in enumerate(head.chain):
        copies = (other for other in graph.spec.heads.values() if other.copy_of == head.name)
        paths = [head_path(h, i) for h in (head, *copies)]  # no output may need the original of a copy
        component = next(graph.components[p] for p in paths if p in graph.components)
        calls.append(call.model_copy(update={"params": plain_params(component.params)}))
    return head.model_copy(update={"chain": tuple(calls)})


def _edge(edge: Edge, graph: ModelGraph, paths: dict[str, str]) -> Edge:
    sources = tuple(_source(s, graph.components, paths) for s in edge.sources)
    combine = edge.combine
    if combine is None and len(sources) > 1:
        first = graph.components.get(head_path(graph.spec.heads[edge.head])) if edge.head else None
        combine = "concat" if first is None or first.params.reads == "tensor" else first.params.reads
    return edge.model_copy(update={"sources": sources, "combine": combine})


def _source(source: Source, components: Any, paths: dict[str, str]) -> Source:
    component = components.get(paths.get(source.trunk or "", ""))
    if source.feature is not None or component is None or component.given:
        return source
    family = find_trunk(component.family)
    if family is None:
        return source
    return source.model_copy(update={"feature": family.default(component.params, component.meta)})


def plain_params(params: Any) -> dict[str, Any]:
    """Validated parameters as plain data, under the names that a spec uses; they validate to the same again.

    All of them, unless the family accepts either a name or the numbers behind it (RegNet): then those that were given.
    """
    if not isinstance(params, BaseModel):
        return dict(params)
    whole = params.model_dump(mode="json", by_alias=True)
    try:
        type(params).model_validate(whole)
    except ValidationError:
        return params.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return whole
