"""Slices: a module for some inputs and outputs of another, sharing its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from graphmodel.diagnostics import Collector, choices_help, fail
from graphmodel.graph.types import ModelGraph, Output, find_output, output_names
from graphmodel.lower.emit import emit_code
from graphmodel.lower.materialise import attach, graft_tensor
from graphmodel.lower.module import CompiledModel, assemble
from graphmodel.passes.prune import Prune


def names_in(argument: str, names: Any) -> None:
    """Checks that an argument is a sequence of names; a bare string would be taken for its letters.

    Raises:
        CompileError: GM503.
    """
    if names is None:
        return
    wrong = isinstance(names, str) or not isinstance(names, Iterable)
    if not wrong and all(isinstance(name, str) for name in names):
        return
    example = names if isinstance(names, str) else "name"
    message = f"`{argument}` takes a list of names, not {names!r}"
    raise fail("GM503", message, help=f'write `{argument}=["{example}"]`', path=argument)


def slice_graph(graph: ModelGraph, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> ModelGraph:
    """The part of a graph that computes `outputs` from `inputs`.

    Args:
        graph: the graph.
        inputs: names of the inputs to keep; None keeps those that the outputs need.
        outputs: names of the outputs to keep, in this order; None keeps all that the inputs allow.

    Raises:
        CompileError: GM502 if a name is unknown or an output needs an input that is left out, GM503 if a bare string is
            given instead of a list of names.
    """
    names_in("inputs", inputs)
    names_in("outputs", outputs)
    report = Collector()
    for what, names, known in (("input", inputs, graph.inputs), ("output", outputs, output_names(graph.outputs))):
        for name in names or ():
            if name not in known:
                report.error("GM502", f"unknown {what} `{name}`", None, choices_help(name, list(known), f"{what}s"))
    report.raise_errors()
    allowed = set(graph.inputs if inputs is None else inputs)
    found = {name: find_output(graph.outputs, name) for name in (graph.outputs if outputs is None else outputs)}
    needs = {name: _inputs_of(graph, output) for name, output in found.items() if output is not None}
    chosen = [n for n in needs if outputs is not None or needs[n] <= allowed]
    for name in chosen:
        for missing in sorted(needs[name] - allowed):
            report.error("GM502", f"the output `{name}` needs the input `{missing}`, which the slice leaves out")
    if not chosen:
        report.error("GM502", "no output can be computed from these inputs", None, f"inputs: {', '.join(graph.inputs)}")
    keys = [key for name in chosen if (output := found[name]) is not None for key in output.parts]
    for name in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        report.error("GM502", f"the output `{name}` is named twice: alone and as a part of its head's result")
    report.raise_errors()
    kept = replace(
        graph,
        outputs={n: output for n, output in found.items() if n in chosen and output is not None},
        structure=tuple(chosen) if outputs is not None else _filtered(graph.structure, set(chosen)),
    )
    used = {n for name in chosen for n in needs[name]} if inputs is None else allowed
    kept = replace(
        kept,
        inputs={k: v for k, v in graph.inputs.items() if k in used},
        nodes={k: n for k, n in graph.nodes.items() if n.call != "placeholder" or k in used},
    )
    return Prune().run(kept).graph


def _inputs_of(graph: ModelGraph, output: Output) -> set[str]:
    alive = graph.needed_by(output.parts.values())
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
    code = emit_code(graph, form)
    root = nn.Module()
    wanted = {str(n.target) for n in graph.nodes.values() if n.call in ("module", "attribute")}
    for path, part in module.named_modules():
        if path in wanted:
            attach(root, path, part)
    for path in wanted:
        holder, _, leaf = path.rpartition(".")
        graft_tensor(module.get_submodule(holder), leaf, root, holder)
    for path, part in root.named_modules():
        part.training = module.get_submodule(path).training
    return assemble(code, root, {**module.meta["graphmodel"], "graph": graph, "returns": form})
