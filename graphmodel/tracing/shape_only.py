"""Common operations on the meta device without their arithmetic: a trace asks for their shapes alone.

On meta, a convolution, a normalisation, a linear layer or attention runs as dozens of Python operations, two thirds
of the time that tracing a ResNet or a ViT takes, and an LSTM as a loop over its steps, nine tenths of the time of a
Sequencer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

CHANNELS = {F.batch_norm: (1, 2, 3, 4), F.instance_norm: (1, 2, 3, 4)}
"""Functions over channels, and where tensors of one number per channel stand among their arguments."""

SUMS: frozenset[Any] = frozenset({torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.mul, torch.Tensor.mul})
"""Functions of two tensors that return one like the larger if the other is like it, or repeated along dimensions."""
SUMS_IN_PLACE: frozenset[Any] = frozenset({torch.Tensor.add_, torch.Tensor.__iadd__})

CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
"""Convolutions, and over how many dimensions they run."""


class ShapeOnlyOps(TorchFunctionMode):
    """A mode in which layers, norms, activations, sums, attention and LSTMs on meta return empty tensors.

    Calls whose arguments do not fit each other run as usual, and raise what they raise.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CHANNELS and _agrees(args, kwargs, CHANNELS[func]):
            return _like(args[0])
        if func in CONVOLUTIONS and not kwargs and (shape := _convolved(CONVOLUTIONS[func], *args)) is not None:
            return _empty(shape, args[0])
        if func is F.layer_norm and _is_layer_norm(*args[:2], **kwargs):
            return _empty(args[0].shape, args[0])
        if func is F.linear and not kwargs and _is_linear(*args):
            return _empty((*args[0].shape[:-1], args[1].shape[0]), args[0])
        if func is F.relu and _is_meta(args[0] if args else None):
            if not (kwargs.get("inplace") or args[1:] == (True,)):
                return _like(args[0])
            return _changed(args[0])
        if func is F.gelu and _is_meta(args[0] if args else None):
            return _like(args[0])
        if func in SUMS and not kwargs and len(args) == 2 and _are_alike(*args):
            return _like(args[0])
        if func in SUMS and not kwargs and len(args) == 2 and _scales(*args):
            return _like(max(args, key=torch.Tensor.numel))
        if func is F.adaptive_avg_pool2d and _is_average_of_all(*args, **kwargs):
            return _empty((*args[0].shape[:-2], 1, 1), args[0])
        if func in SUMS_IN_PLACE and not kwargs and len(args) == 2 and _are_alike(*args):
            return _changed(args[0])
        if func is F.scaled_dot_product_attention and _is_attention(args, kwargs):
            return _empty((*args[0].shape[:-1], args[2].shape[-1]), args[0])
        if func is torch.lstm and len(args) == 9 and not kwargs and _is_meta_sequence(*args[:3]):
            x, (hidden, cell), bidirectional = args[0], args[1], args[7]
            # A projection makes the hidden state narrower than the cell's, so the output's width is the hidden state's.
            width = hidden.shape[-1] * (2 if bidirectional else 1)
            return _empty((*x.shape[:-1], width), x), _like(hidden), _like(cell)
        return func(*args, **kwargs)


@contextmanager
def fixed_momentum(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm with a cumulative average (`momentum=None`) does not read its count, which meta cannot tell.

    Args:
        module: a module on the meta device, whose statistics nobody reads.
    """
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.momentum is None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = None


def _is_meta(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_meta


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """A contiguous meta tensor; `new_empty` and `empty_like` on meta run as Python, ten times slower."""
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _like(x: torch.Tensor) -> torch.Tensor:
    """A meta tensor like `x`."""
    if x.is_contiguous():
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return torch.empty_like(x)


def _changed(x: torch.Tensor) -> torch.Tensor:
    """The tensor itself, as changed in place: whoever compares versions sees it."""
    torch.autograd.graph.increment_version(x)
    return x


def _convolved(
    dims: int,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> tuple[int, ...] | None:
    """The shape of a convolution's result on meta; None if it is for torch to tell, or to refuse."""
    if not _is_meta(x) or not _is_meta(weight) or not x.ndim == weight.ndim == dims + 2:
        return None
    steps = [(n,) * dims if type(n) is int else n for n in (stride, padding, dilation)]
    if not all(isinstance(n, (tuple, list)) and len(n) == dims and all(type(i) is int for i in n) for n in steps):
        return None
    out, kernel = weight.shape[0], weight.shape[2:]
    if type(groups) is not int or groups < 1 or out % groups or x.shape[1] != weight.shape[1] * groups:
        return None
    if x.dtype != weight.dtype or (bias is not None and (bias.shape, bias.dtype) != (weight.shape[:1], x.dtype)):
        return None
    places = zip(x.shape[2:], kernel, *steps, strict=True)
    if min(*steps[0], *steps[2], *kernel) < 1 or min(steps[1]) < 0:
        return None
    sizes = tuple((size + 2 * pad - gap * (width - 1) - 1) // step + 1 for size, width, step, pad, gap in places)
    return (x.shape[0], out, *sizes) if min(x.shape[0], x.shape[1], *sizes) > 0 else None


def _are_alike(x: Any, y: Any) -> bool:
    """Whether these are meta tensors of one shape, layout in memory and dtype."""
    return _is_meta(x) and _is_meta(y) and (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)


def _scales(x: Any, y: Any) -> bool:
    """Whether these are contiguous meta tensors of one dtype, and one has size 1 where it differs from the other."""
    if not (_is_meta(x) and _is_meta(y)) or x.ndim != y.ndim or x.dtype != y.dtype:
        return False
    if not (x.is_contiguous() and y.is_contiguous()):
        return False
    small, large = (x, y) if x.numel() <= y.numel() else (y, x)
    return all(a in (1, b) for a, b in zip(small.shape, large.shape, strict=True))


def _is_average_of_all(x: Any, output_size: Any) -> bool:
    """Whether this is the average of each feature map of a contiguous meta tensor."""
    return (
        output_size in (1, (1, 1), [1, 1]) and _is_meta(x) and x.ndim in (3, 4) and x.numel() > 0 and x.is_contiguous()
    )


def _is_layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, **options: Any) -> bool:
    """Whether these are a meta tensor, its last dimensions, and one number per element of them."""
    if not isinstance(x, torch.Tensor) or not x.is_meta or tuple(shape) != tuple(x.shape[-len(shape) :]):
        return False
    return all(t is None or (t.shape == x.shape[-len(shape) :] and t.dtype == x.dtype) for t in (weight, bias))


def _is_linear(x: Any, weight: Any, bias: Any = None) -> bool:
    """Whether these are a meta tensor, a matrix that fits its last dimension, and one number per row of that."""
    if not isinstance(x, torch.Tensor) or not x.is_meta or x.ndim < 1 or weight.ndim != 2:
        return False
    fits = x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
    return fits and {x.dtype} == {t.dtype for t in (weight, bias) if t is not None}


def _is_attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these are queries, keys and values on meta that fit each other, and no mask."""
    if len(args) != 3 or not all(isinstance(t, torch.Tensor) and t.is_meta and t.ndim > 2 for t in args):
        return False
    if any(kwargs.get(name) is not None for name in ("attn_mask", "enable_gqa") if kwargs.get(name) is not False):
        return False
    query, key, value = args
    same = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.dtype == key.dtype == value.dtype
    return bool(same and query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2])


def _is_meta_sequence(x: Any, state: Any, weights: Any) -> bool:
    """Whether these are a padded sequence on meta, its state, and weights that fit it."""
    plain = isinstance(x, torch.Tensor) and x.is_meta and isinstance(state, (tuple, list))
    return plain and bool(weights) and weights[0].shape[-1] == x.shape[-1]


_NAMES = ("input", "running_mean", "running_var", "weight", "bias")


def _agrees(args: tuple[Any, ...], kwargs: dict[str, Any], places: tuple[int, ...]) -> bool:
    x = args[0] if args else None
    if not isinstance(x, torch.Tensor) or not x.is_meta or x.ndim < 2:
        return False
    given = [args[i] if i < len(args) else kwargs.get(_NAMES[i]) for i in places]
    return all(t is None or (isinstance(t, torch.Tensor) and t.shape == x.shape[1:2]) for t in given)
