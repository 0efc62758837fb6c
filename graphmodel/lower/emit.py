"""Emits the graph as fx code."""

from __future__ import annotations

from typing import Any

from torch import fx

from graphmodel.diagnostics import CompileError, Diagnostic
from graphmodel.graph.types import FX_OPS, ModelGraph, Node, Output, Ref, map_values
from graphmodel.lower.codegen import ModelCode
from graphmodel.lower.guards import add_guards

FORMS = ("dict", "tuple", "list", "tensor")
"""Forms of the result."""


def emit_code(graph: ModelGraph, returns: str) -> fx.Graph:
    """The fx graph.

    Args:
        graph: the graph after its passes.
        returns: `dict` (by output name), `tuple` (flat, in order), `list` (nested as the spec says), `tensor` (the
            one output itself).

    Raises:
        CompileError: GM501 if `tensor` is asked for and there are several outputs.
    """
    out = fx.Graph()
    made: dict[str, fx.Node] = {}
    for name in graph.inputs:
        made[name] = out.placeholder(name)
    add_guards(out, graph, made)
    for node in graph.nodes.values():
        if node.call != "placeholder":
            made[node.name] = _call(out, node, made)
    out.output(_result(graph, returns, made))
    out.lint()
    out.set_codegen(ModelCode())
    return out


def _call(out: fx.Graph, node: Node, made: dict[str, fx.Node]) -> fx.Node:
    def value(ref: Ref) -> fx.Node:
        return made[ref.node]

    args, kwargs = map_values(node.args, value), map_values(dict(node.kwargs), value)
    call = out.create_node(FX_OPS[node.call], node.target, args, kwargs, name=node.name)
    call.meta["graphmodel"] = {"span": str(node.span) if node.span else "", "kind": node.kind}
    if node.facts.checkpoint:
        call.meta["graphmodel"]["segment"] = f"{node.scope or 'trunk'}_segment{node.facts.checkpoint}"
    return call


def _result(graph: ModelGraph, returns: str, made: dict[str, fx.Node]) -> Any:
    flat = {key: made[node] for output in ordered(graph) for key, node in output.parts.items()}
    if returns == "dict":
        return flat
    if returns == "tuple":
        return tuple(flat.values())
    if returns == "list":
        return [_nested(item, graph, made) for item in graph.structure]
    if returns == "tensor" and len(flat) == 1:
        return next(iter(flat.values()))
    names = ", ".join(flat)
    raise CompileError(
        [
            Diagnostic(
                "GM501",
                f"one tensor was asked for and the model has {len(flat)} outputs: {names}"
                if returns == "tensor"
                else f"`{returns}` is not a valid result form",
                graph.spec.span(("returns",)) if returns == graph.spec.returns else None,
                "use `dict`, `tuple` or `list`, or slice the module to one output",
            )
        ]
    )


def _nested(item: Any, graph: ModelGraph, made: dict[str, fx.Node]) -> Any:
    if isinstance(item, tuple):
        return [_nested(child, graph, made) for child in item]
    output = graph.outputs[item]
    values = [made[node] for node in output.parts.values()]
    return values if output.nested else values[0]


def ordered(graph: ModelGraph) -> list[Output]:
    """The outputs in the order of the structure."""
    names: list[str] = []

    def walk(item: Any) -> None:
        if isinstance(item, tuple):
            for child in item:
                walk(child)
        else:
            names.append(item)

    walk(graph.structure)
    return [graph.outputs[n] for n in names]
