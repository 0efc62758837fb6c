"""Shapes while a trunk is traced: their dimensions may be proxies."""

from __future__ import annotations

import builtins
from typing import Any

import torch
from torch import fx


class Size(tuple[Any, ...]):
    """A shape; dimensions that depend on the batch or the image size are proxies."""

    def numel(self) -> Any:
        """The product of all dimensions."""
        total: Any = 1
        for dim in self:
            total = total * dim
        return total

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(str, self))}])"  # each notes that it was written

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Size(found) if isinstance(index, builtins.slice) else found


class _AnySize(type):
    def __call__(cls, sizes: Any = ()) -> Any:
        sizes = tuple(sizes)
        return Size(sizes) if any(isinstance(size, fx.Proxy) for size in sizes) else _Size(sizes)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, (Size, _Size))


_Size = torch.Size  # as it is when nothing is traced


class AnySize(metaclass=_AnySize):
    """Takes the place of `torch.Size` while a trunk is traced: a shape may have dimensions that are proxies."""
