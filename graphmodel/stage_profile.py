"""Profiles a model: what each stage costs, counted without weights or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphmodel.api import compile
from graphmodel.diagnostics import fail
from graphmodel.graph.rows import rows_per_sample
from graphmodel.lower.module import CompiledModel
from graphmodel.lower.random_inputs import weights_of
from graphmodel.lower.splitting import opened_graph
from graphmodel.passes.stages import only_sequentials
from graphmodel.profiling.measure import measure as measured
from graphmodel.profiling.stages import ModelProfile, profile_graph
from graphmodel.spec.model import ModelSpec


def profile(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec | CompiledModel,
    *,
    batch: int = 2,
    measure: bool = False,
    device: str | torch.device | None = None,
    allow_imports: bool = False,
) -> ModelProfile:
    """What each stage of a model costs.

    Operations, parameters and activation memory are counted on the meta device; no weight is built for a spec unless
    times are measured. If a trunk has all its blocks in one `nn.Sequential`, as a ViT, each block is a stage.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> found = graphmodel.profile(spec, batch=8)
        >>> found.sorted("activations")[0].calls, found.sorted("parameters")[0].calls
        ('trunk.layer1', 'trunk.layer4')

    Args:
        source: a spec in any form that `compile` takes, or a module.
        batch: the number of samples.
        measure: whether to run training steps and measure forward and backward time of each stage and peak memory; a
            module is measured where it is.
        device: where a spec is measured; CUDA if there is any, else the CPU.
        allow_imports: whether a spec may name Python code to import.

    Returns:
        The profile; `sorted("time")` orders its stages.

    Raises:
        CompileError: what is wrong with the spec; GM555 if a training step of that size cannot be run.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise fail("GM555", f"`batch` takes a positive number of samples, not {batch!r}", help="write `batch=2`")
    module = source if isinstance(source, CompiledModel) else None
    if measure and _place(module, device) == "meta":
        raise fail("GM555", "nothing can be measured on the meta device", help="use `cpu`, or count without `measure`")
    if module is None:
        module = compile(
            source,  # type: ignore[arg-type]
            device=_place(None, device) if measure else "meta",
            seed=0,
            allow_imports=allow_imports,
        )
    blocks = only_sequentials(module.optimized_graph)
    graph = opened_graph(module, lambda path, _: path in blocks, module.optimized_graph)
    found = profile_graph(graph, batch, rows_per_sample(module.model_graph))
    return measured(module, found, graph) if measure else found


def _place(module: CompiledModel | None, device: str | torch.device | None) -> str:
    """The device that a module is on, or that a spec is compiled for."""
    if module is not None:
        return str(weights_of(module).device)
    try:
        return str(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    except (RuntimeError, TypeError):
        raise fail("GM555", f"`{device}` is not a valid device", help="use `cpu`, `cuda` or `cuda:0`") from None
