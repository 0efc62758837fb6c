"""What the worker does with torch: checks a spec as `graphmodel check` does, describes trunks, counts operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import networkx as nx

from graphmodel.api import compile
from graphmodel.cli.catalogue import document, trunk_page
from graphmodel.components.library.guard import offline
from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import CompileError, Diagnostic, Span
from graphmodel.dialects.loading import read_spec
from graphmodel.graph.text import info_text
from graphmodel.graph.types import ModelGraph
from graphmodel.profiling.flops import count_flops
from graphmodel.profiling.parameters import Parameters
from graphmodel.schema import SCHEMAS
from graphmodel.spec.model import Edge, Source

Json = dict[str, Any]

_last: list[ModelGraph] = []


def run(job: Json) -> Json:
    """The result of a job.

    Args:
        job: `kind` and what this kind needs; see the functions below.
    """
    with offline():
        result: Json = _KINDS[job["kind"]](job)
    return result


def check(job: Json) -> Json:
    """Compiles the spec of `paths` on the meta device: its findings, and the shapes of its values."""
    _last.clear()
    texts = {Path(path): text for path, text in job["texts"].items()}
    try:
        spec = read_spec(
            job["paths"],
            job["overrides"],
            inputs={name: tuple(shape) for name, shape in job["inputs"].items()} or None,
            allow_extends_outside=job["allow_extends_outside"],
            texts=texts,
        )
        graph = compile(spec, device="meta").model_graph
    except CompileError as error:
        return {"findings": [_finding(d) for d in error.diagnostics], "model": None}
    _last.append(graph)
    return {"findings": [_finding(d) for d in (*spec.notes, *graph.notes)], "model": _model(graph)}


def _finding(found: Diagnostic) -> Json:
    return asdict(found)


def finding_of(data: Json) -> Diagnostic:
    """The finding that a worker has sent."""
    span = data["span"]
    return Diagnostic(**{**data, "span": Span(**span) if span is not None else None})


def _model(graph: ModelGraph) -> Json:
    """The shapes of inputs, edges and outputs; edges and sources by their path in the native document."""
    edges = []
    network = graph.network
    for edge in graph.spec.edges:
        output = graph.outputs.get(edge.output)
        if output is None:
            continue
        shapes = {key: info_text(graph.nodes[name].info) for key, name in output.parts.items()}
        edges.append(
            {
                "at": list(edge.at),
                "output": edge.output,
                "head": edge.head,
                "shapes": shapes,
                "sources": [
                    {"at": list(s.at), "shape": shape}
                    for s in edge.sources
                    if (shape := _shape(s, edge, graph, network))
                ],
            }
        )
    inputs = {name: info_text(graph.nodes[name].info) for name in graph.inputs if name in graph.nodes}
    return {"inputs": inputs, "edges": edges}


def _shape(source: Source, edge: Edge, graph: ModelGraph, network: nx.MultiDiGraph[str]) -> str:
    """The shape of what an output reads; empty if it cannot be told from the graph."""
    if source.output:
        name, _, _ = source.output.partition(".")
        found = graph.outputs.get(name)
        parts = found.parts if found is not None else {}
        chosen = [parts[source.output]] if source.output in parts else list(parts.values())
        return ", ".join(dict.fromkeys(info_text(graph.nodes[n].info) for n in chosen))
    if source.trunk is None:
        return info_text(graph.nodes[source.input].info) if source.input in graph.nodes else ""
    nodes = _features(list(graph.outputs[edge.output].parts.values()), graph)
    nodes = [n for n in nodes if source.input in nx.ancestors(network, n)]
    if len(edge.sources) > 1:
        wanted = source.feature or ""
        nodes = [n for n in nodes if any(f == wanted or f.startswith(wanted) for f in graph.nodes[n].facts.features)]
    return ", ".join(dict.fromkeys(info_text(graph.nodes[n].info) for n in nodes))


def _features(start: list[str], graph: ModelGraph) -> list[str]:
    """The nodes that are features of trunks and that some nodes are made of, without looking behind them."""
    found: list[str] = []
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop(0)
        if name in seen:
            continue
        seen.add(name)
        node = graph.nodes[name]
        if node.facts.features:
            found.append(name)
        else:
            todo += node.refs()
    return [name for name in graph.nodes if name in found]


def costs(job: Json) -> Json:
    """Parameters and operations of each component of the spec that was checked last."""
    if not _last:
        return {}
    graph = _last[0]
    flops = count_flops(graph)
    parameters = Parameters(graph)
    found: Json = {}
    for path, component in graph.components.items():
        nodes = [n for n in graph.nodes.values() if n.component == path]
        count = parameters.of(nodes)
        found[path] = {
            "class": type(component.meta).__name__,
            "family": component.family,
            "parameters": count.total,
            "trainable": count.trainable,
            "flops": sum(flops[n.name] for n in nodes),
            "shape": info_text(nodes[-1].info) if nodes else "",
        }
    return found


def trunk(job: Json) -> Json:
    """The page of a trunk: its features at an image size, its parameters, its source."""
    family = find_trunk(job["name"])
    if family is None:
        return {"problem": "unknown trunk"}
    shape = tuple(job["shape"]) if job["shape"] is not None else None
    try:
        return trunk_page(job["name"], family, job["params"], shape).to_dict()
    except CompileError as error:
        return {"problem": error.diagnostics[0].message}


def catalogue(job: Json) -> Json:
    """The catalogue of components and the schemas, with what packages register."""
    return {"components": document(), "schemas": {name: make() for name, make in SCHEMAS.items()}}


_KINDS: Mapping[str, Any] = {"check": check, "costs": costs, "trunk": trunk, "catalogue": catalogue}
