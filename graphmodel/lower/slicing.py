"""Slices: a module for some inputs and outputs of another, sharing its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from graphmodel.diagnostics import Collector, choices_help
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import emit
from graphmodel.lower.materialise import attach, container
from graphmodel.lower.module import CompiledModel, make
from graphmodel.passes.prune import Prune, reachable


def slice_graph(graph: ModelGraph, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> ModelGraph:
    """The part of a graph that computes `outputs` of `inputs`.

    Raises:
        CompileError: GM502 where a name is unknown or an output needs an input that is left out.
    """
    report = Collector()
    for what, names, known in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
        for name in names or ():
            if name not in known:
                report.error("GM502", f"unknown {what} `{name}`", None, choices_help(name, list(known), f"{what}s"))
    report.raise_errors()
    allowed = set(graph.inputs if inputs is None else inputs)
    needs = {name: _inputs_of(graph, name) for name in graph.outputs}
    chosen = [n for n in graph.outputs if needs[n] <= allowed] if outputs is None else list(outputs)
    for name in chosen:
        for missing in sorted(needs[name] - allowed):
            report.error("GM502", f"the output `{name}` needs the input `{missing}`, which the slice leaves out")
    if not chosen:
        report.error("GM502", "no output can be computed of these inputs", None, f"inputs: {', '.join(graph.inputs)}")
    report.raise_errors()
    kept = replace(
        graph,
        outputs={n: graph.outputs[n] for n in chosen},
        structure=tuple(chosen) if outputs is not None else _filtered(graph.structure, set(chosen)),
    )
    used = {n for name in chosen for n in needs[name]} if inputs is None else allowed
    kept = replace(
        kept,
        inputs={k: v for k, v in graph.inputs.items() if k in used},
        nodes={k: n for k, n in graph.nodes.items() if n.call != "placeholder" or k in used},
    )
    return Prune().run(replace(kept, nodes=_without_orphans(kept)))


def _without_orphans(graph: ModelGraph) -> dict[str, Any]:
    alive = reachable(graph)
    return {k: n for k, n in graph.nodes.items() if k in alive or n.call == "placeholder"}


def _inputs_of(graph: ModelGraph, output: str) -> set[str]:
    alive = reachable(replace(graph, outputs={output: graph.outputs[output]}))
    return {n for n in alive if graph.nodes[n].call == "placeholder"}


def _filtered(structure: tuple[Any, ...], keep: set[str]) -> tuple[Any, ...]:
    out: list[Any] = []
    for item in structure:
        if isinstance(item, tuple):
            inner = _filtered(item, keep)
            out += [inner] if inner else []
        elif item in keep:
            out.append(item)
    return tuple(out)


def slice_module(
    module: CompiledModel, inputs: Sequence[str] | None, outputs: Sequence[str] | None, returns: str | None
) -> CompiledModel:
    """A module for part of another; it holds the same submodules and parameters."""
    graph = slice_graph(module.model_graph, inputs, outputs)
    form = returns or module.returns
    code = emit(graph, form)
    root = nn.Module()
    wanted = {str(n.target) for n in graph.nodes.values() if n.call in ("module", "attribute")}
    for path, part in module.named_modules():
        if path in wanted:
            attach(root, path, part)
    for path in wanted:
        holder, _, leaf = path.rpartition(".")
        owner = module.get_submodule(holder)
        if leaf in owner._parameters:
            container(root, holder).register_parameter(leaf, owner._parameters[leaf])
        elif leaf in owner._buffers:
            persistent = leaf not in owner._non_persistent_buffers_set
            container(root, holder).register_buffer(leaf, owner._buffers[leaf], persistent=persistent)
    for path, part in root.named_modules():
        part.training = module.get_submodule(path).training
    return make(code, root, {**module.meta["graphmodel"], "graph": graph, "returns": form})
