"""Lowers a graph to the module that users get: real weights, frozen parts, and the emitted code."""

from __future__ import annotations

from collections.abc import Collection

import torch

from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import emit_code
from graphmodel.lower.freezing import freeze_modules
from graphmodel.lower.materialise import build_modules
from graphmodel.lower.module import CompiledModel, assemble
from graphmodel.lower.shared_stages import attach_check
from graphmodel.passes.channels_last import convert_weights
from graphmodel.passes.folding import attach_folded
from graphmodel.passes.switches import optimize_graph

__all__ = ["CompiledModel", "lower"]


def lower(
    graph: ModelGraph,
    *,
    device: torch.device,
    seed: int,
    returns: str,
    passes: Collection[str] = (),
    move_given: bool = True,
) -> CompiledModel:
    """The module of a graph.

    Args:
        graph: the graph after its passes.
        device: where the weights go; on `meta` none are built.
        seed: the seed that every component derives its own stream from.
        returns: the form of the result: `dict`, `tuple`, `list` or `tensor`.
        passes: names of the optimizations that run before the code is written.
        move_given: whether modules that the caller gave move to `device` too.

    Returns:
        The module, in training mode.

    Raises:
        CompileError: GM501 if the result cannot have that form.
    """
    optimized = optimize_graph(graph, passes)
    code = emit_code(optimized, returns)
    root = build_modules(graph, device, seed, move_given=move_given)
    attach_check(root, optimized)
    attach_folded(root, optimized)
    convert_weights(root, optimized)
    record = {"graph": graph, "optimized": optimized, "passes": tuple(passes), "returns": returns, "seed": seed}
    module = assemble(code, root, record)
    freeze_modules(module, graph.frozen)
    return module
