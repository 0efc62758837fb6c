"""Proxies that know their value: each carries the results of several runs on the meta device."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from graphmodel.components.structure import children, equal_structure, rebuilt

FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange zeros ones full empty linspace eye tensor as_tensor from_numpy rand randn logspace randint randperm "
        "tril_indices triu_indices zeros_like ones_like full_like empty_like rand_like randn_like bernoulli"
    ).split()
)
"""Functions that make tensors, or draw random numbers: recorded as calls, never run while tracing, never merged."""


class TraceError(Exception):
    """A trunk that this tracer cannot open.

    Attributes:
        help: what to do about it; `str()` says what the problem is.
    """

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


class Size(tuple[Any, ...]):
    """A shape whose batch-dependent dimensions are proxies."""

    def numel(self) -> Any:
        """The product of all dimensions."""
        total: Any = 1
        for dim in self:
            total = total * dim
        return total

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Size(found) if isinstance(index, builtins.slice) else found


class MetaProxy(fx.Proxy):
    """A proxy that knows its value on the meta device for two batch sizes.

    What does not depend on the batch is a plain number to the traced code, so loops over it and branches on it resolve;
    what does stays symbolic.
    """

    @property
    def values(self) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = self.node.meta["values"]
        return pair

    def constant(self) -> Any:
        """The value, if it is a number that does not depend on the batch.

        Raises:
            TraceError: if it depends on the batch.
        """
        return constant(self)

    @property
    def shape(self) -> Any:
        return self.size()

    @property
    def ndim(self) -> int:
        return int(self.values[0].ndim)

    @property
    def is_cuda(self) -> bool:
        return False

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        first, second = (v.shape for v in self.values)
        if dim is not None:
            return int(first[dim]) if first[dim] == second[dim] else self._size(dim)
        return Size(int(a) if a == b else self._size(i) for i, (a, b) in enumerate(zip(first, second, strict=True)))

    def _size(self, dim: int) -> Any:
        return self.tracer.create_proxy("call_method", "size", (self, dim), {})

    def __len__(self) -> int:
        first, second = map(len, self.values)
        if first != second:
            raise TraceError(
                f"control flow depends on `len({self.node.name})`, which changes with the batch",
                "write `.size(0)` if the module's code means a number; a loop over samples cannot be traced",
            )
        return first

    def __getitem__(self, index: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __iter__(self) -> Iterator[Any]:
        first = self.values[0]
        if isinstance(first, (torch.Tensor, list, tuple)):
            return iter([self[i] for i in range(len(self))])
        raise TraceError(f"iteration over `{self.node.name}`")

    def __index__(self) -> int:
        return int(self.constant())

    def __int__(self) -> int:
        return int(self.constant())

    def __float__(self) -> float:
        return float(self.constant())

    def __bool__(self) -> bool:
        return bool(self.constant())


def constant(proxy: fx.Proxy) -> Any:
    """The value of a proxy, if it is a number that does not depend on the batch.

    Raises:
        TraceError: if it depends on the batch, or is a tensor.
    """
    first, second = proxy.node.meta["values"]
    if isinstance(first, torch.Tensor):
        raise TraceError(
            f"control flow depends on the numbers in the tensor `{proxy.node.name}`",
            "a graph cannot branch on data: use `torch.where` in the module's code",
        )
    if first != second:
        raise TraceError(
            f"control flow depends on `{proxy.node.name}`, which changes with the batch",
            "one graph serves every batch size: let the module's code do the same for all of them",
        )
    return first


def unpacked(proxy: MetaProxy) -> Any:
    """A call's result with real tuples, lists, dicts and constants, so that the traced code can tell what it got."""
    first, second = proxy.values
    items = children(first)
    if items is not None:
        return rebuilt(first, [unpacked(proxy[key]) for key, _ in items])
    known = not isinstance(first, torch.Tensor) and bool(first == second)
    return first if known else proxy


def same_calls(node: fx.Node, other: fx.Node, seen: dict[tuple[fx.Node, fx.Node], bool]) -> bool:
    """Whether two nodes are the same calls of the same values; `seen` remembers what was compared."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node) and isinstance(b, fx.Node):
            return same_calls(a, b, seen)
        return type(a) is type(b) and bool(a == b)

    if node is other:
        return True
    if (node, other) not in seen:
        calls = (node.op, node.target) == (other.op, other.target) and node.op != "placeholder"
        seen[node, other] = calls and equal_structure((node.args, node.kwargs), (other.args, other.kwargs), equal)
    return seen[node, other]
