"""Recomputes a stage's activations in the backward pass; names, keys and BatchNorm statistics stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


class CheckpointedForward:
    """Stands in for a stage's `forward`.

    It lives in the stage's own `__dict__` (torch's `checkpoint_wrapper` would rename `named_parameters()`). Outside
    of training it runs the stage as it is. In the recomputation BatchNorm leaves its running statistics alone:
    without that they would move twice for one batch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.module).forward
        if not (self.module.training and torch.is_grad_enabled()):
            return forward(self.module, *args, **kwargs)
        if torch.compiler.is_compiling():
            # The compiler recomputes operations, not modules: statistics move once there anyway.
            return checkpoint(forward, self.module, *args, use_reentrant=False, **kwargs)
        return checkpoint(forward, self.module, *args, use_reentrant=False, context_fn=self.contexts, **kwargs)

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the first run and of the recomputation."""
        return nullcontext(), _statistics_untouched(self.module)


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    # With momentum 0 the update multiplies by one and adds nothing, and autograd saves the same tensors as before.
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    kept = [(norm, norm.momentum, norm._buffers["num_batches_tracked"]) for norm in norms]
    for norm in norms:
        norm.momentum, norm._buffers["num_batches_tracked"] = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm._buffers["num_batches_tracked"] = momentum, count


def enable_checkpointing(root: nn.Module, paths: Iterable[str]) -> None:
    """Lets the stages at these paths recompute."""
    for path in dict.fromkeys(paths):
        stage = root.get_submodule(path)
        stage.__dict__["forward"] = CheckpointedForward(stage)
