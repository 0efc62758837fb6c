"""Loads standalone code that was written for a module, and compares it with the module."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphmodel.components.structure import leaves
from graphmodel.diagnostics import CompileError, fail, first_line
from graphmodel.graph.rows import rows_per_sample
from graphmodel.lower.random_inputs import random_inputs

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel

_NUMBERS = itertools.count()


def not_standalone(problem: object) -> CompileError:
    """The error for a module that cannot be written as code, or not faithfully."""
    help = "export it instead: `graphmodel export … -o model.pt2` needs torch alone"
    return fail("GM584", f"no standalone code can be written for this model: {problem}", help=help)


def check_standalone(module: CompiledModel, directory: Path) -> None:
    """Loads the written files, and compares the model with the module in both modes, bit by bit.

    Args:
        module: the module that was written; it is left as it is.
        directory: where model.py and its tensors are.

    Raises:
        CompileError: GM584 if a tensor of the state dict, a result, or what is frozen differs.
    """
    device = next((t.device for t in module.state_dict().values()), torch.device("cpu"))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            problem = _difference(load_standalone(directory).to(device), module)
    except Exception as error:  # whatever the written code raises
        problem = first_line(error)
    if problem:
        raise not_standalone(problem)


def load_standalone(directory: Path) -> Any:
    """The model of a directory, from its model.py."""
    name = f"_standalone_model_{next(_NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, directory / "model.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(found)
        return found.Model.load(directory)
    finally:
        sys.dont_write_bytecode = before
        del sys.modules[name]


def _difference(made: nn.Module, module: CompiledModel) -> str:
    """How a model differs from a module; empty if it does not."""
    if problem := _other_state(made, module):
        return problem
    graph, source = module.model_graph, copy.deepcopy(module)
    inputs = random_inputs(module, graph, {name: 2 * rows for name, rows in rows_per_sample(graph).items()})
    for mode in (False, True):
        results = []
        for each in (source.train(mode), made.train(mode)):
            torch.manual_seed(0)
            results.append(each(*inputs))
        if not all(_identical(a, b) for a, b in zip(leaves(results[0]), leaves(results[1]), strict=True)):
            return f"its numbers differ in {'training' if mode else 'eval'} mode"
    for (path, own), (_, other) in zip(source.named_modules(), made.named_modules(), strict=True):
        if own.training != other.training:
            return f"`{path}` is in another mode than in the module after `train()`"
    return _other_state(made, source)  # with the statistics that the training mode has updated


def _other_state(made: nn.Module, module: nn.Module) -> str:
    own, other = module.state_dict(keep_vars=True), made.state_dict(keep_vars=True)
    if list(own) != list(other):
        return f"its state_dict has other keys ({next(iter(set(own) ^ set(other)), 'in another order')})"
    for name, tensor in own.items():
        if not _identical(tensor, other[name]):
            return f"the tensor `{name}` differs"
        if tensor.requires_grad != other[name].requires_grad:
            return f"`requires_grad` of `{name}` differs"
    return ""


def _identical(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


__all__ = ["check_standalone", "load_standalone", "not_standalone"]
