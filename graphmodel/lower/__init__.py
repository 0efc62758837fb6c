"""Lowers a graph to the module that users get: real weights, frozen parts, and the emitted code."""

from __future__ import annotations

import torch

from graphmodel.graph.types import ModelGraph
from graphmodel.lower.checkpointing import enable_checkpointing
from graphmodel.lower.emit import emit
from graphmodel.lower.freezing import freeze_modules
from graphmodel.lower.materialise import materialise
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
    code = emit(graph, returns)
    root = materialise(graph, device, seed, move_given=move_given)
    freeze_modules(root, graph.frozen)
    enable_checkpointing(root, [str(n.target) for n in graph.nodes.values() if n.facts.checkpoint])
    return assemble(code, root, {"graph": graph, "returns": returns, "seed": seed})
