"""Cards: the details of a box or frame, shown on demand, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from graphmodel.diagnostics import Span
from graphmodel.graph.text import info_text, node_text
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.profiling.parameters import ParameterCount
from graphmodel.spec.model import ModelSpec
from graphmodel.visualize import labels
from graphmodel.visualize.group import Group

MOST = 200
"""Longer lists on a card are cut."""


def of_box(
    graph: ModelGraph,
    group: Group,
    nodes: Sequence[Node],
    parameters: ParameterCount,
    flops: int,
    names: Sequence[str],
) -> dict[str, Any]:
    """The card of a box."""
    inside = set(group.members)
    reads = [graph.nodes[r] for n in nodes for r in n.refs() if r not in inside]
    card: dict[str, Any] = {
        "paths": _unique(str(n.target) for n in nodes if n.call in ("module", "attribute")),
        "classes": _unique(type(m).__name__ for m in (graph.module_of(n) for n in nodes) if m is not None),
        "yaml": _places(n.span for n in nodes),
        "reads": _unique(f"{r.name}: {info_text(r.info)}" for r in reads),
        "gives": _unique(f"{n.name}: {info_text(n.info)}" for n in _leaving(graph, inside)),
        "parameters": parameters.total,
        "trainable": parameters.trainable,
        "flops": flops,
        "features": _unique(f for n in nodes for f in n.facts.features),
        "facts": _unique(labels.sentence(k, getattr(n.facts, k)) for n in nodes for k in labels.badges(n.facts)),
        "calls": _unique(node_text(n) for n in nodes),
    }
    components = _unique(n.component for n in nodes if n.component and graph.components[n.component].kind == "head")
    if components:
        card["heads"] = _unique(head_name(c) for c in components)
        card["settings"] = settings(graph, components[0])
        card["copies"] = _unique(found for c in components if (found := graph.components[c].copy_of))
    if len(nodes) == 1 and nodes[0].call == "module":
        card["contents"] = contents(graph, nodes[0])
    if group.kind == "output":
        card["outputs"] = list(names) or [group.id.removeprefix("output:")]
        card["yaml"] = _places(_output_span(graph, o) for o in card["outputs"][:MOST])
        card["gives"] = _unique(_output_shape(graph, o) for o in card["outputs"])
    return {k: (v[:MOST] if isinstance(v, list) else v) for k, v in card.items() if v not in ([], {}, "", 0)}


def of_component(
    graph: ModelGraph, components: Iterable[str], parameters: ParameterCount, flops: int
) -> dict[str, Any]:
    """The card of a frame."""
    found = [graph.components[c] for c in _unique(components) if c in graph.components]
    card: dict[str, Any] = {
        "paths": [c.name for c in found],
        "classes": _unique(type(c.meta).__name__ for c in found),
        "families": _unique(c.family for c in found),
        "copies": _unique(c.copy_of for c in found if c.copy_of),
        "yaml": _places(c.span for c in found),
        "parameters": parameters.total,
        "trainable": parameters.trainable,
        "flops": flops,
    }
    if len(found) == 1:
        card["settings"] = settings(graph, found[0].name)
    return {k: v for k, v in card.items() if v not in ([], {}, "", 0)}


def written(spec: ModelSpec, component: str) -> Mapping[str, Any]:
    """The parameters that a spec names for a component, in its order."""
    kind, *rest = component.split(".")
    if kind == "heads":
        head = spec.heads.get(rest[0])
        place = int(rest[1]) if len(rest) > 1 else 0
        return head.chain[place].params if head is not None and place < len(head.chain) else {}
    trunk = spec.trunks.get(rest[0] if rest else "trunk")
    return trunk.params if trunk is not None else {}


def settings(graph: ModelGraph, component: str) -> dict[str, Any]:
    """Every parameter of a component, defaults included, as plain data."""
    params = graph.components[component].params
    dumped: dict[str, Any] = params.model_dump(mode="json") if hasattr(params, "model_dump") else {}
    return dumped


def contents_text(module: nn.Module) -> str:
    """`3 × Bottleneck` for a sequence of three, otherwise the class."""
    children = Counter(type(c).__name__ for c in module.children())
    if not isinstance(module, (nn.Sequential, nn.ModuleList)) or not children:
        return type(module).__name__
    if len(children) == 1:
        name, number = next(iter(children.items()))
        return f"{number} × {name}" if number > 1 else name
    if sum(children.values()) <= 4:
        return " · ".join(type(c).__name__ for c in module.children())
    return " · ".join(f"{n} × {name}" if n > 1 else name for name, n in children.items())


def contents(graph: ModelGraph, node: Node) -> list[list[Any]]:
    """Name, class and parameters of a module's children."""
    module = graph.module_of(node)
    if module is None:
        return []
    return [
        [name, type(child).__name__, sum(p.numel() for p in child.parameters())]
        for name, child in module.named_children()
    ][:MOST]


def _leaving(graph: ModelGraph, inside: set[str]) -> list[Node]:
    """The calls of a group that something outside it reads."""
    read = {n for o in graph.outputs.values() for n in o.parts.values()}
    for name, node in graph.nodes.items():
        if name not in inside:
            read |= set(node.refs())
    return [graph.nodes[n] for n in graph.nodes if n in inside and n in read]


def _output_shape(graph: ModelGraph, key: str) -> str:
    for output in graph.outputs.values():
        if key in output.parts:
            return f"{key}: {info_text(graph.nodes[output.parts[key]].info)}"
    return key


def _output_span(graph: ModelGraph, key: str) -> Span | None:
    for output in graph.outputs.values():
        if key in output.parts:
            edge = next((e for e in graph.spec.edges if e.output == output.name), None)
            return graph.spec.span(edge.at) if edge is not None else None
    return None


def _places(spans: Iterable[Span | None]) -> list[dict[str, Any]]:
    """Locations in the YAML with their lines."""
    found = list(dict.fromkeys(s for s in spans if s is not None))
    return [{"place": str(s), "text": s.text.strip()} for s in found]


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
