"""Finds out which input shapes a graph serves: the compiled ones, or images of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import networkx as nx
import torch

from graphmodel.build.graph_writer import DTYPES
from graphmodel.components.structure import map_structure
from graphmodel.graph.evaluate import evaluate, on_meta
from graphmodel.graph.types import ModelGraph, Node, Ref
from graphmodel.spec.model import InputSpec
from graphmodel.tracing.image_sizes import Accepts, Factors, factors, resize, spatial
from graphmodel.tracing.shape_only import ShapeOnlyOps

Shapes = tuple[tuple[int, ...], ...]
"""Per-sample shapes of an input, one for each view."""


def with_accepted_shapes(
    graph: ModelGraph, traced: Mapping[tuple[str, int], Sequence[Accepts]], batch: int
) -> ModelGraph:
    """The graph with the shapes that each of its inputs accepts.

    The graph is run at other sizes of its inputs. If a call fails there, such as a classifier of flattened maps, the
    inputs that it depends on are fixed to their sizes as far as needed.

    Args:
        graph: the graph.
        traced: by input and position of the view, the shapes that the trunks accept.
        batch: a batch size that every call takes.

    Returns:
        The graph with `accepts`.
    """
    trials = {
        name: _trials(item, [traced.get((name, i), ()) for i in range(len(_shapes(item)))])
        for name, item in graph.inputs.items()
    }
    network = graph.network
    while any(len(tried) > 1 for tried in trials.values()):
        failed = _first_failure(graph, {name: tried[0][0] for name, tried in trials.items()}, batch)
        if failed is None:
            break
        causes = nx.ancestors(network, failed) & {name for name, tried in trials.items() if len(tried) > 1}
        for name in causes or trials.keys():
            trials[name] = trials[name][1:] or trials[name]
    return replace(graph, accepts={name: tried[0][1] for name, tried in trials.items()})


def _shapes(item: InputSpec) -> Shapes:
    return (item.shape or (),) if item.views is None else tuple(item.views)


def _trials(item: InputSpec, limits: Sequence[Sequence[Accepts]]) -> list[tuple[Shapes, tuple[Accepts, ...]]]:
    """Sizes at which an input is tried, and what it accepts if that goes well; the last is its own size."""
    shapes = _shapes(item)
    found: list[tuple[Shapes, tuple[Accepts, ...]]] = []
    for by in factors(shapes[0]):
        resized = [resize(shape, _within(by, shape, limit)) for shape, limit in zip(shapes, limits, strict=True)]
        known = [r for r in resized if r is not None]
        trial = tuple(r[0] for r in known), tuple(r[1] for r in known)
        if len(known) == len(shapes) and trial[0] != shapes and trial not in found:
            found.append(trial)
    return [*found, (shapes, shapes)]


def _within(by: Factors, shape: Sequence[int], limits: Sequence[Accepts]) -> Factors:
    """The factors without those of dimensions that a trunk has fixed."""
    return tuple(
        Fraction(1) if any(limit[dim] is not None for limit in limits) else factor
        for dim, factor in zip(spatial(shape), by, strict=True)
    )


def _first_failure(graph: ModelGraph, shapes: Mapping[str, Shapes], batch: int) -> str | None:
    """The first call that does not run on inputs of these shapes."""
    values: dict[str, object] = {}
    known: dict[str, object] = {}  # a module gives tensors of the same shapes for tensors of the same shapes
    with on_meta(graph), ShapeOnlyOps():
        for name, node in graph.nodes.items():
            if node.call == "placeholder":
                dtype = DTYPES[graph.inputs[name].dtype]
                tensors = [torch.empty((batch, *shape), dtype=dtype) for shape in shapes[name]]
                values[name] = tensors if graph.inputs[name].views is not None else tensors[0]
                continue
            call = _signature(node, values) if node.call == "module" else name
            try:
                values[name] = known[call] if call in known else evaluate(graph, node, values)
            except Exception:  # whatever a module raises, the graph does not serve this size
                return name
            known[call] = values[name]
    return None


def _signature(node: Node, values: Mapping[str, object]) -> str:
    """The module that a node calls, and the shapes and dtypes of what it is called with."""

    def text(leaf: object) -> object:
        value = values[leaf.node] if isinstance(leaf, Ref) else leaf
        return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)

    return repr((node.target, map_structure(text, (node.args, dict(node.kwargs)))))
