"""Explains a failed call if an input has another floating-point dtype than the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphmodel.components.structure import leaves
from graphmodel.diagnostics.input_error import InputError

_OF_DTYPES = re.compile(r"dtype|scalar type|[Ii]nput type|same type", re.ASCII)
"""What torch's messages about dtypes say."""


def dtype_error(
    module: nn.Module, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> InputError | None:
    """The error to raise in place of torch's, if the dtype of an input explains it.

    A module may be converted to another dtype, run in autocast or be sharded with mixed precision, so the dtype that an
    input must have is not known beforehand: only a call that failed is explained.

    Args:
        module: a compiled model.
        error: what its call raised.
        args: what it was called with.
        kwargs: the same.

    Returns:
        GM542, or None if the error is about something else.
    """
    if isinstance(error, InputError) or not _OF_DTYPES.search(str(error)):
        return None
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
    for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
        tensors = [t for t in leaves(value) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        other = next((t.dtype for t in tensors if t.dtype not in dtypes), None)
        if other is not None and dtypes:
            weights = ", ".join(sorted(map(str, dtypes)))
            to = weights.removeprefix("torch.") if len(dtypes) == 1 else "float32"
            return InputError(
                "GM542",
                f"the input `{name}` is {other} and the weights are {weights}",
                f"convert it: `{name}.to(torch.{to})`, or convert the model: `model.to({other})`",
            )
    return None
