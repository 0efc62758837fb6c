"""Slices: a module for some inputs and outputs of another, sharing its parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphmodel.diagnostics import Collector, choices_help, fail, first_line, nearest
from graphmodel.graph.types import ModelGraph, Output, find_output, output_names
from graphmodel.lower.containers import Container
from graphmodel.lower.emit import FORMS, emit_code
from graphmodel.lower.freezing import STAND_INS, keep_frozen
from graphmodel.lower.module import COMPILED, CompiledModel, assemble, check_unedited
from graphmodel.lower.sharded import copy_sharded, gather_with, is_sharded
from graphmodel.lower.shared_stages import attach_check
from graphmodel.passes.channels_last import convert_weights
from graphmodel.passes.folding import attach_folded
from graphmodel.passes.prune import Prune
from graphmodel.passes.switches import optimize_graph


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
                help = choices_help(name, list(known), f"{what}s")
                form = nearest(name, FORMS) if what == "output" and nearest(name, known) is None else None
                help += f"; the form of the result is chosen by `returns`: `{form}`" if form else ""
                report.error("GM502", f"unknown {what} `{name}`", None, help)
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
    """A module for part of another, with module objects of its own around the same tensors.

    Raises:
        CompileError: GM502 and GM503 as for `slice_graph`, GM504 if the module's `graph` was edited, GM505 if a part
            of it cannot be copied.
    """
    names_in("inputs", inputs)
    names_in("outputs", outputs)
    check_unedited(module, "a slice")
    graph = slice_graph(module.model_graph, inputs, outputs)
    return part_of(module, graph, returns or module.returns)


def part_of(module: CompiledModel, graph: ModelGraph, form: str) -> CompiledModel:
    """A module that computes a graph with the tensors of another module, which has all that the graph calls.

    Raises:
        CompileError: GM501 if the result cannot have that form, GM505 if a part of the module cannot be copied.
    """
    optimized = optimize_graph(graph, module.passes)
    code = emit_code(optimized, form)
    wanted = {str(n.target) for n in graph.nodes.values() if n.call in ("module", "attribute")}
    try:
        root = _twin(module, "", wanted, _shared(module))
    except Exception as error:  # whatever a module or an attribute of it raises when it is copied
        message = f"a part of this module cannot be copied: {first_line(error)}"
        raise fail("GM505", message, help="slice first, then shard or change the parts") from error
    attach_check(root, optimized, module)
    attach_folded(root, optimized)
    convert_weights(root, optimized)
    changed = {"graph": graph, "optimized": optimized, "returns": form}
    made = assemble(code, root, {**module.meta["graphmodel"], **changed})
    own = {key: value for key, value in module.__dict__.items() if key not in (*made.__dict__, *STAND_INS, *COMPILED)}
    made.__dict__.update(own)
    keep_frozen(made, graph.frozen)
    if is_sharded(module):
        gather_with(made, module)
    return made


def _shared(module: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy that copies modules and shares what they hold.

    Tensors, and the dicts that parameters and buffers are registered in, are shared and not copied: what a module
    registers, moves or replaces, its twin has too. Dicts of hooks are copied, so that a new hook stays on its side.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            memo[id(held)] = held
            memo.update((id(tensor), tensor) for tensor in held.values() if tensor is not None)
        for key, value in part.__dict__.items():
            if isinstance(value, torch.Tensor):
                memo[id(value)] = value
            elif "_hooks" in key and isinstance(value, dict):
                memo[id(value)] = value.copy()
    copy_sharded(module, memo)
    return memo


def _twin(module: nn.Module, path: str, wanted: set[str], memo: dict[int, Any]) -> nn.Module:
    """The module with those of its parts that are wanted; a part that is called is copied as a whole."""
    start = f"{path}." if path else ""
    inside = {name.removeprefix(start) for name in wanted if name.startswith(start)}
    twin = Container() if not path else copy.copy(module)
    parts = twin.__dict__
    for key, value in module.__dict__.items() if path else ():
        parts[key] = memo.get(id(value), value) if "_hooks" in key else value
    for key in (*STAND_INS, *COMPILED):
        parts.pop(key, None)
    parts["training"] = module.training
    for key in ("_parameters", "_buffers"):
        held = {name: value for name, value in module.__dict__[key].items() if name in inside}
        # FSDP replaces parameters while they are gathered: a dict of our own would keep the shards.
        whole = len(held) == len(module.__dict__[key]) or any(hasattr(v, "device_mesh") for v in held.values())
        parts[key] = module.__dict__[key] if whole else held
    parts["_modules"] = {}
    for name, child in module._modules.items():
        here = f"{path}.{name}" if path else name
        if child is None:
            continue
        if here in wanted:
            parts["_modules"][name] = copy.deepcopy(child, memo)
        elif any(target.startswith(f"{here}.") for target in wanted):
            parts["_modules"][name] = _twin(child, here, wanted, memo)
    return twin
