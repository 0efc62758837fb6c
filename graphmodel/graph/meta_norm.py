"""Normalisations on the meta device without their arithmetic: they keep the shape, and that is all a trace asks for.

On meta, batch normalisation runs as dozens of Python operations, two thirds of the time that tracing a ResNet takes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

CHANNELS = {F.batch_norm: (1, 2, 3, 4), F.instance_norm: (1, 2, 3, 4)}
"""Functions over channels, and where tensors of one number per channel stand among their arguments."""


class ShapesOfNorms(TorchFunctionMode):
    """Inside, a normalisation of a meta tensor returns an empty tensor like its input, where its channels agree."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CHANNELS and _agrees(args, kwargs, CHANNELS[func]):
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


_NAMES = ("input", "running_mean", "running_var", "weight", "bias")


def _agrees(args: tuple[Any, ...], kwargs: dict[str, Any], places: tuple[int, ...]) -> bool:
    x = args[0] if args else None
    if not isinstance(x, torch.Tensor) or not x.is_meta or x.ndim < 2:
        return False
    given = [args[i] if i < len(args) else kwargs.get(_NAMES[i]) for i in places]
    return all(t is None or (isinstance(t, torch.Tensor) and t.shape == x.shape[1:2]) for t in given)
