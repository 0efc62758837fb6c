"""The public functions: where the stages meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from graphmodel.build import build as graph_build
from graphmodel.dialects import InputShapes
from graphmodel.dialects.loading import load_spec
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.checkpointing import recompute
from graphmodel.lower.emit import emit
from graphmodel.lower.frozen import hold_still
from graphmodel.lower.materialise import materialise
from graphmodel.lower.module import CompiledModel, make
from graphmodel.passes.manager import run_passes
from graphmodel.passes.pipeline import PIPELINE
from graphmodel.spec.model import ModelSpec


def build_graph(
    spec: ModelSpec, *, trunks: Mapping[str, nn.Module] | None = None, allow_imports: bool = False
) -> ModelGraph:
    """The graph of a spec after every pass: names bound, every shape checked, no weight built.

    Args:
        spec: what `load_spec` returned.
        trunks: modules to use for trunks of these names.
        allow_imports: whether the spec may name Python code to import.

    Raises:
        CompileError: everything that can be found wrong, at once.
    """
    return run_passes(graph_build.build_graph(spec, trunks=trunks, allow_imports=allow_imports), PIPELINE)


def compile(
    spec_or_path: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    *,
    device: str | torch.device | None = None,
    seed: int | None = None,
    outputs: Literal["dict", "tuple", "list", "tensor"] | None = None,
    inputs: InputShapes | None = None,
    overrides: Sequence[str] = (),
    trunks: Mapping[str, nn.Module] | None = None,
    allow_imports: bool = False,
) -> CompiledModel:
    """Compiles a spec into one module.

    Args:
        spec_or_path: a path, several (a base and overlays), a mapping already loaded, or a `ModelSpec`.
        device: where the weights go; None is the device of the modules given in `trunks`, else torch's default
            device; `meta` builds no weights.
        seed: makes the weights reproducible. Each component draws from its own stream; a trunk gets what the
            library's own constructor gives under `torch.manual_seed(seed)`. None draws a seed from torch's global
            generator.
        outputs: the form of the result: a dict by output name, a flat tuple, VISSL's nested list, or the one tensor.
            None takes the spec's own (`returns:`, a dict by default).
        inputs: per-sample shapes such as `{"images": (3, 224, 224)}`, over what the file says; a list of shapes is
            an input of views.
        overrides: `path=value` items.
        trunks: modules to use for the spec's trunks of these names, as they are: shared and not copied, their weights
            kept, moved only where `device` says so.
        allow_imports: whether the spec may name Python code to import.

    Returns:
        The module, in training mode.

    Raises:
        CompileError: everything that is wrong with the spec, at once.
    """
    spec = load_spec(spec_or_path, overrides, inputs=inputs)
    graph = build_graph(spec, trunks=trunks, allow_imports=allow_imports)
    returns = outputs or spec.returns
    code = emit(graph, returns)
    target = torch.device(device) if device is not None else _device_beside(trunks or {})
    if seed is None:
        seed = int(torch.randint(0, 2**31 - 1, (), device="cpu"))
    root = materialise(graph, target, seed, move_given=device is not None)
    hold_still(root, graph.frozen)
    recompute(root, [str(n.target) for n in graph.nodes.values() if n.facts.checkpoint])
    return make(code, root, {"graph": graph, "returns": returns, "seed": seed, "spec": spec})


def _device_beside(trunks: Mapping[str, nn.Module]) -> torch.device:
    """The device of the first tensor of the given modules, else torch's default device."""
    tensors = (t for module in trunks.values() for t in (*module.parameters(), *module.buffers()))
    first = next(tensors, None)
    return torch.get_default_device() if first is None or first.is_meta else first.device
