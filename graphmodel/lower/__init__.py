"""Lowers a graph to the module that users get: real weights, frozen parts, and the emitted code."""

from __future__ import annotations

import torch

from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import emit_code
from graphmodel.lower.freezing import freeze_modules
from graphmodel.lower.materialise import build_modules
from graphmodel.lower.module import CompiledModel, assemble

__all__ = ["CompiledModel", "lower"]


def lower(
    graph: ModelGraph, *, device: torch.device, seed: int, returns: str, move_given: bool = True
) -> CompiledModel:
    """The module of a graph.

    Args:
        graph: the graph after its passes.
        device: where the weights go; on `meta` none are built.
        seed: the seed that every component derives its own stream from.
        returns: the form of the result: `dict`, `tuple`, `list` or `tensor`.
        move_given: whether modules that the caller gave move to `device` too.

    Returns:
        The module, in training mode.

    Raises:
        CompileError: GM501 if the result cannot have that form.
    """
    code = emit_code(graph, returns)
    root = build_modules(graph, device, seed, move_given=move_given)
    module = assemble(code, root, {"graph": graph, "returns": returns, "seed": seed})
    freeze_modules(module, graph.frozen)
    return module
