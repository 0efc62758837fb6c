"""Finds out which input shapes a graph serves: the compiled ones, or images of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import networkx as nx
import torch

from graphmodel.build.graph_writer import DTYPES
from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import ModelGraph
from graphmodel.tracing.image_sizes import Accepts, factors, resize, spatial
from graphmodel.tracing.shape_only import ShapeOnlyOps

Shapes = tuple[tuple[int, ...], ...]
"""Per-sample shapes of an input, one for each view."""


def with_accepted_shapes(graph: ModelGraph, traced: Mapping[str, Sequence[Accepts]], batch: int) -> ModelGraph:
    """The graph with the shapes that each of its inputs accepts.

    The graph is run at other sizes of its inputs. If a call fails there, such as a classifier of flattened maps, the
    inputs that it depends on are fixed to their sizes as far as needed.

    Args:
        graph: the graph.
        traced: for each input, the shapes that the trunks accept, one for each view and trunk pass that reads it.
        batch: a batch size that every call takes.

    Returns:
        The graph with `accepts`.
    """
    trials = {name: _trials(graph, name, traced.get(name, ())) for name in graph.inputs}
    while any(len(tried) > 1 for tried in trials.values()):
        failed = _first_failure(graph, {name: tried[0][0] for name, tried in trials.items()}, batch)
        if failed is None:
            break
        causes = [n for n in nx.ancestors(graph.network, failed) if len(trials.get(n, ())) > 1]
        for name in causes or list(trials):
            trials[name] = trials[name][1:] or trials[name]
    return replace(graph, accepts={name: tried[0][1] for name, tried in trials.items()})


def _trials(graph: ModelGraph, name: str, limits: Sequence[Accepts]) -> list[tuple[Shapes, tuple[Accepts, ...]]]:
    """Sizes at which an input is tried, and what it accepts if that goes well; the last is its own size."""
    item = graph.inputs[name]
    shapes: Shapes = tuple(item.views) if item.views is not None else (item.shape or (),)
    found: list[tuple[Shapes, tuple[Accepts, ...]]] = []
    # A limit has the shape of one view; a trunk may read fewer channels than the input has.
    fixed = [
        {
            d
            for limit in limits
            if len(limit) == len(shape)
            for d in spatial(shape)
            if limit[d] is not None and limit[d] == shape[d]
        }
        for shape in shapes
    ]
    for by in factors(len(spatial(shapes[0]))):
        resized = []
        for shape, dims in zip(shapes, fixed, strict=True):
            factor = tuple(f if d not in dims else type(f)(1) for d, f in zip(spatial(shape), by, strict=True))
            resized.append(resize(shape, factor))
        if all(r is not None for r in resized):
            trial = tuple(r[0] for r in resized if r), tuple(r[1] for r in resized if r)
            if trial[0] != shapes and trial not in found:
                found.append(trial)
    return [*found, (shapes, shapes)]


def _first_failure(graph: ModelGraph, shapes: Mapping[str, Shapes], batch: int) -> str | None:
    """The first call that does not run on inputs of these shapes."""
    values: dict[str, object] = {}
    with on_meta(graph), ShapeOnlyOps():
        for name, node in graph.nodes.items():
            if node.call == "placeholder":
                dtype = DTYPES[graph.inputs[name].dtype]
                tensors = [torch.empty((batch, *shape), dtype=dtype) for shape in shapes[name]]
                values[name] = tensors if graph.inputs[name].views is not None else tensors[0]
                continue
            try:
                values[name] = evaluate(graph, node, values)
            except Exception:  # whatever a module raises, the graph does not serve this size
                return name
    return None
