"""Proxies that know their value: each carries the results of two runs on the meta device, with two batch sizes."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange zeros ones full empty linspace eye tensor as_tensor from_numpy rand randn logspace randint randperm "
        "tril_indices triu_indices zeros_like ones_like full_like empty_like rand_like randn_like bernoulli"
    ).split()
)
"""Functions that make tensors, or draw random numbers: recorded as calls, never run while tracing, never merged."""


class TraceError(Exception):
    """A trunk that this tracer cannot open: `str()` says what stood in the way, `help` what to do about it."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


class Failed:
    """The value of a call that cannot run on these shapes; it matters only where a feature needs it.

    A trunk's head may not fit the image while its stages do, and a classifier that helps training may want more pixels.
    """

    def __init__(self, error: Exception) -> None:
        text = (str(error).strip().splitlines() or [""])[0]
        self.__dict__["reason"] = f"{type(error).__name__}: {text}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TraceError(self.__dict__["reason"])


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
        """The value, where it is a number that does not depend on the batch.

        Raises:
            TraceError: where it does.
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
                "write `.size(0)` where the module's code means a number; a loop over samples cannot be traced",
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
    """The value of a proxy that holds a number which does not depend on the batch.

    Raises:
        TraceError: where it does, or where it is a tensor.
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


def map_structure(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with `function` applied to everything that is no list, tuple, dict or slice."""
    if isinstance(value, Size):
        return tuple(map_structure(v, function) for v in value)
    if isinstance(value, (list, tuple)):
        items = [map_structure(v, function) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: map_structure(v, function) for k, v in value.items()}
    if isinstance(value, builtins.slice):
        return builtins.slice(*(map_structure(v, function) for v in (value.start, value.stop, value.step)))
    return function(value)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in a structure of lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors_in(item)]
    return []


def version(value: Any) -> tuple[int, ...]:
    """In-place change counters of all tensors in a value."""
    return tuple(t._version for t in tensors_in(value))


def same_calls(node: Any, other: Any, seen: dict[tuple[fx.Node, fx.Node], bool]) -> bool:
    """Whether two nodes (or arguments of nodes) are the same calls of the same values."""
    if isinstance(node, fx.Node) and isinstance(other, fx.Node):
        if node is other:
            return True
        if (node, other) not in seen:
            calls = (node.op, node.target) == (other.op, other.target) and node.op != "placeholder"
            arguments = [(n.args, dict(n.kwargs)) for n in (node, other)]
            seen[node, other] = calls and same_calls(arguments[0], arguments[1], seen)
        return seen[node, other]
    if isinstance(node, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(node) == len(other) and all(same_calls(a, b, seen) for a, b in zip(node, other, strict=True))
    if isinstance(node, dict) and isinstance(other, dict):
        return list(node) == list(other) and all(same_calls(node[k], other[k], seen) for k in node)
    return type(node) is type(other) and bool(node == other)


def unpacked(proxy: MetaProxy) -> Any:
    """A call's result with real tuples, lists, dicts and constants, so that the traced code can tell what it got."""
    first, second = proxy.values
    if isinstance(first, dict):
        return {k: unpacked(proxy[k]) for k in first}
    if isinstance(first, (tuple, list)):
        items = [unpacked(proxy[i]) for i in range(len(first))]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    known = not isinstance(first, torch.Tensor) and bool(first == second)
    return first if known else proxy


def failed_in(value: Any) -> Failed | None:
    """The first value that could not be computed."""
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        return next((f for f in map(failed_in, items) if f is not None), None)
    return value if isinstance(value, Failed) else None


def signature(value: Any) -> Any:
    """What a call's result depends on, on the meta device."""
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(signature(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, signature(v)) for k, v in value.items())
    return repr(value)


def like(value: Any) -> Any:
    """A fresh meta tensor like `value`, or the value itself where it is no tensor."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
