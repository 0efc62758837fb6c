"""Random inputs for a module: what it is compared, measured and exported with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graphmodel.graph.types import ModelGraph


def random_inputs(module: nn.Module, graph: ModelGraph, rows: Mapping[str, int], *, seed: int = 0) -> tuple[Any, ...]:
    """The arguments of a call, on the device of the module's weights and in their precision.

    Args:
        module: the module.
        graph: its model graph.
        rows: the number of rows of each input, such as a multiple of `rows_per_sample`.
        seed: makes them the same every time.

    Returns:
        A tensor for each input, or a list of tensors for an input with views.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = weights_of(module)

    def tensor(count: int, shape: tuple[int, ...], name: str) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, name)
        if dtype.is_floating_point:
            drawn = torch.randn((count, *shape), generator=generator)
            return drawn.to(weights.device, weights.dtype if dtype is torch.float32 else dtype)
        return torch.randint(256 if dtype is torch.uint8 else 2, (count, *shape), generator=generator).to(
            weights.device, dtype
        )

    return tuple(
        tensor(rows[name], item.shape or (), item.dtype)
        if item.views is None
        else [tensor(rows[name], shape, item.dtype) for shape in item.views]
        for name, item in graph.inputs.items()
    )


def weights_of(module: nn.Module) -> torch.Tensor:
    """A tensor with the device and precision of a module's weights; an empty one on the CPU if it has none."""
    tensors = [*module.parameters(), *module.buffers()]
    floating = (t for t in tensors if t.is_floating_point())
    return next(floating, tensors[0].float() if tensors else torch.empty(0))
