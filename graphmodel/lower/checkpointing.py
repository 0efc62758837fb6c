"""Recomputes a segment's activations in the backward pass; keys, names and BatchNorm statistics stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute(segment: Callable[..., Any], stages: Sequence[nn.Module], *values: Any) -> Any:
    """Runs a segment; its activations are not kept, and computed again in the backward pass.

    In eval mode, or without gradients, the segment runs as it is. In the recomputation BatchNorm leaves its running
    statistics alone: otherwise they would move twice for one batch.

    Args:
        segment: a function of `values`.
        stages: the modules that it calls.
        *values: what it reads.

    Returns:
        What the segment returns.
    """
    if not (torch.is_grad_enabled() and any(stage.training for stage in stages)):
        return segment(*values)
    if torch.compiler.is_compiling():
        # The compiler recomputes operations, not modules: statistics move once there anyway.
        return checkpoint(segment, *values, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_untouched(stages)

    return checkpoint(segment, *values, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_untouched(stages: Sequence[nn.Module]) -> Iterator[None]:
    # With momentum 0 the update multiplies by one and adds nothing, and autograd saves the same tensors as before.
    parts = {id(m): m for stage in stages for m in stage.modules()}
    norms = [m for m in parts.values() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    kept = [(norm, norm.momentum, norm._buffers["num_batches_tracked"]) for norm in norms]
    for norm in norms:
        norm.momentum, norm._buffers["num_batches_tracked"] = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm._buffers["num_batches_tracked"] = momentum, count
