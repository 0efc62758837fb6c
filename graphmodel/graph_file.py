"""graph.json: a compiled model's graph as plain data, for tools that know nothing about graphmodel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphmodel.components.structure import children, leaves
from graphmodel.components.tensors import TensorInfo
from graphmodel.graph.facts import Pair
from graphmodel.graph.text import target_text
from graphmodel.graph.types import Component, ModelGraph, Node, Ref

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel

VERSION = 1


def graph_text(module: CompiledModel) -> str:
    """The text of graph.json."""
    return json.dumps(graph_document(module), indent=1, ensure_ascii=False) + "\n"


def graph_document(module: CompiledModel) -> dict[str, Any]:
    """The graph of a module as JSON values; docs/artifacts.md describes every key.

    Args:
        module: what `compile` returned.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> document = graph_document(graphmodel.compile(spec, device="meta"))
        >>> document["nodes"][1]["target"], document["nodes"][1]["tensors"]
        ('trunk.conv1', [{'shape': ['N', 64, 32, 32], 'dtype': 'float32'}])
        >>> document["edges"][0]
        {'from': 'images', 'to': 'conv1', 'port': 0}
    """
    graph = module.model_graph
    edges = [
        {"from": source, "to": name, "port": port}
        for name, node in graph.nodes.items()
        for port, source in enumerate(node.refs())
    ]
    outputs = [
        {"name": key, "node": node, "tensors": _tensors(graph.nodes[node].info)}
        for output in graph.outputs.values()
        for key, node in output.parts.items()
    ]
    return {
        "graph_version": VERSION,
        "name": graph.spec.name,
        "returns": module.returns,
        "inputs": [
            {"name": name, "views": item.views is not None, "tensors": _tensors(graph.nodes[name].info)}
            for name, item in graph.inputs.items()
        ],
        "outputs": outputs,
        "nodes": [_node(node) for node in graph.nodes.values()],
        "edges": edges,
        "components": [_component(component, graph) for component in graph.components.values()],
        "head_settings": {name: item for name, item in _settings(graph).items() if item},
        "passes": {
            "ran": list(graph.history),
            "optimizations": list(module.passes),
            "summary": list(module.optimized_graph.summary),
        },
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "kind": node.kind,
        "call": node.call,
        "target": "" if node.call == "placeholder" else target_text(node.target),
        "component": node.component,
        "args": _plain(node.args),
        "kwargs": _plain(dict(node.kwargs)),
        "tensors": _tensors(node.info),
        "facts": {name: _plain(value) for name, value in node.facts.stated().items()},
        "source": f"{Path(node.span.file).name}:{node.span.line}:{node.span.column}" if node.span else None,
    }


def _component(component: Component, graph: ModelGraph) -> dict[str, Any]:
    calls = [node.name for node in graph.nodes.values() if node.component == component.name]
    return {"name": component.name, "kind": component.kind, "family": component.family, "nodes": calls}


def _settings(graph: ModelGraph) -> dict[str, Any]:
    """How heads train, and their places in grids."""
    return {name: head.settings.model_dump(exclude_defaults=True) for name, head in graph.spec.heads.items()}


def _tensors(info: Any) -> list[dict[str, Any]]:
    return [{"shape": _shape(t), "dtype": t.dtype} for t in leaves(info) if isinstance(t, TensorInfo)]


def _shape(info: TensorInfo) -> list[int | str]:
    return [size if isinstance(size, int) else str(size) for size in info.shape]


def _plain(value: Any) -> Any:
    """A value as JSON: `{"node": name}` for another call's, text for what JSON does not have."""
    if isinstance(value, Ref):
        return {"node": value.node}
    if isinstance(value, Pair):
        return {"layer": value.path_of(value.layer), "norm": value.path_of(value.norm)}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    items = children(value)
    if items is None:
        return str(value) if not callable(value) else target_text(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in items}
    if isinstance(value, slice):
        return {"slice": [_plain(item) for _, item in items]}
    return [_plain(item) for _, item in items]
