"""Proxies that know their value: each carries the results of several runs on the meta device.

The first two runs differ in the batch size. A third one, if there is one, differs from the first in the image size.
"""

from __future__ import annotations

import dis
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

from graphmodel.components.structure import children, equal_structure, rebuilt
from graphmodel.tracing.choices import PLAIN, compares_identity, decide
from graphmodel.tracing.decisions import enclosing_function
from graphmodel.tracing.errors import Failed, SizeDecision, TraceError
from graphmodel.tracing.sizes import Size

FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange zeros ones full empty linspace eye tensor as_tensor from_numpy rand randn logspace randint randperm "
        "tril_indices triu_indices zeros_like ones_like full_like empty_like rand_like randn_like bernoulli"
    ).split()
)
"""Functions that make tensors, or draw random numbers: recorded as calls, never run while tracing, never merged."""


UNKNOWN = frozenset("grad_fn grad data_ptr untyped_storage storage _base _is_view _version is_set_to".split())
"""What a tensor says of its memory and of its gradients, which is another answer in every run."""


class MetaProxy(fx.Proxy):
    """A proxy that knows its value on the meta device in each run.

    A number that is the same in all runs is a plain number to the traced code, so loops over it and branches on it
    resolve; a number that differs remains symbolic, and so does whatever is computed from it.
    """

    @property
    def values(self) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.node.meta["values"]
        return found

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # torch takes whatever has torch.Tensor as its class for a tensor in C++ too, and crashes: only code that reads
        # this attribute gets the answer, and `match` with a class as its pattern.
        frame = sys._getframe(1)
        reads = _reads_class(frame.f_code).get(frame.f_lasti, False)
        return type_of(self) if reads and frame.f_globals.get("__name__") not in _OF_FX else MetaProxy

    # Methods that fx's proxies have and tensors do not.

    @property
    def __call__(self) -> Any:
        raise AttributeError(f"'{type(self.values[0]).__name__}' object has no attribute '__call__'")

    @property
    def keys(self) -> Any:
        if isinstance(self.values[0], Mapping):
            return super().keys
        raise AttributeError(f"'{type(self.values[0]).__name__}' object has no attribute 'keys'")

    @property
    def shape(self) -> Any:
        return self.size()

    @property
    def ndim(self) -> int:
        return int(self.values[0].ndim)

    def dim(self) -> int:
        return self.ndim

    def get_device(self) -> int:
        """The index of the device: -1 on a CPU, for which the trunk is traced."""
        return -1 if self.is_cpu else 0

    def size(self, dim: int | None = None) -> Any:
        if dim is not None:
            return self._size(dim)
        return Size(self._size(i) for i in range(self.ndim))

    def _size(self, dim: int) -> Any:
        sizes = {int(v.shape[dim]) for v in known(self.values)}
        return sizes.pop() if len(sizes) == 1 else self.tracer.create_proxy("call_method", "size", (self, dim), {})

    def __len__(self) -> int:
        first, second, *resized = map(len, known(self.values))
        if any(length != first for length in resized):
            raise decision(self, f"len({self.node.name})")
        if first != second:
            raise TraceError(
                f"control flow depends on `len({self.node.name})`, which changes with the batch",
                "write `.size(0)` if the module's code means a number; a loop over samples cannot be traced",
            )
        return first

    def __getitem__(self, index: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TraceError(
            f"the trunk's own code assigns to a part of a tensor (`{self.node.name}[…] = …`)",
            "read features outside of the module that does so",
        )

    def __iter__(self) -> Iterator[Any]:
        first = self.values[0]
        if isinstance(first, (torch.Tensor, list, tuple)):
            return iter([self[i] for i in range(len(self))])
        if isinstance(first, Failed):
            raise TraceError(first.__dict__["reason"])
        raise TraceError(f"iteration over `{self.node.name}`")

    def __getattr__(self, name: str) -> Any:
        if name in ("is_cuda", "is_cpu", "is_mps", "is_xpu"):
            return self.device.type == name.removeprefix("is_")
        if name == "is_meta":
            return False  # its values are, while it is traced
        first = self.values[0]
        if name in UNKNOWN and isinstance(first, torch.Tensor):
            raise TraceError(f"the trunk's own code reads `{name}` of a tensor", "a graph has no tensors yet to ask")
        if isinstance(first, torch.Tensor) and not hasattr(first, name):
            raise AttributeError(f"'Tensor' object has no attribute '{name}'")
        if name.startswith("__") or isinstance(first, Failed) or not isinstance(getattr(first, name, None), PLAIN):
            return super().__getattr__(name)
        proxy = self.tracer.create_proxy("call_function", getattr, (self, name), {})
        if isinstance(getattr(first, name), torch.dtype) and compares_identity(sys._getframe(1)):
            return constant(proxy)
        return proxy

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    def __hash__(self) -> int:
        # A number or a dtype is looked up by its value: by identity, no dictionary would ever contain it.
        return hash(constant(self)) if isinstance(self.values[0], PLAIN) else object.__hash__(self)

    def __str__(self) -> str:
        if isinstance(self.values[0], (torch.dtype, torch.device, str)) and self.node.meta["origins"]:
            return str(constant(self))
        text = super().__str__()
        # Part of a name that is looked up, or decided by, unless it ends up in an assertion's message. The text of a
        # batch size does so everywhere (`f"expected 3 dimensions, got {x.shape}"`), beside plain conditions, too.
        what = f"control flow may depend on the text of `{self.node.name}`"
        if self.node.meta["sized"]:
            found: TraceError = SizeDecision(f"{what}, which changes with the image size", enclosing_function())
        elif isinstance(self.values[0], torch.Tensor):
            found = TraceError(f"{what}, which is the tensor's numbers", "leave it out of the module's code")
        else:
            return text
        self.tracer.texts.append((text, found))  # type: ignore[attr-defined]
        return text

    def __repr__(self) -> str:
        return super().__repr__() if sys._getframe(1).f_globals.get("__name__") in _OF_FX else str(self)

    def __index__(self) -> int:
        return int(constant(self))

    def __int__(self) -> int:
        return int(constant(self))

    def __float__(self) -> float:
        return float(constant(self))

    def __bool__(self) -> bool:
        plain = isinstance(self.values[0], PLAIN) and not isinstance(self.values[0], bool)
        if plain and self.node.meta["origins"]:  # `if x.dtype.itemsize - 2`: what is not zero is the same branch
            return bool(constant(self.tracer.create_proxy("call_function", operator.truth, (self,), {})))
        return bool(constant(self))

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __trunc__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self,) if digits is None else (self, digits), {})


IN_PLACE: Mapping[Callable[..., Any], Callable[..., Any]] = (
    {
        getattr(operator, f"i{name}"): getattr(operator, name)
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
    }
    | {getattr(operator, f"i{name}"): getattr(operator, f"{name}_") for name in ("and", "or")}
    | {operator.ixor: operator.xor}
)
"""Operators such as `+=` and those that make a new value."""


def _assigning(function: Callable[..., Any]) -> Any:
    def assign(value: MetaProxy, other: Any) -> Any:
        if not isinstance(value.values[0], torch.Tensor):
            return NotImplemented  # a number: `+` makes a new one
        return value.tracer.create_proxy("call_function", function, (value, other), {})

    return assign


for _function in IN_PLACE:
    setattr(MetaProxy, f"__{_function.__name__.rstrip('_')}__", _assigning(_function))


def type_of(value: MetaProxy) -> type:
    """The type of what a proxy stands for, if it is a tensor or a plain value; else the proxy's own."""
    first = value.values[0]
    return type(first) if isinstance(first, (torch.Tensor, *PLAIN)) else MetaProxy


def is_instance(value: Any, classes: Any) -> bool:
    """`isinstance` for traced code: a proxy of a tensor is a tensor, one of a number is a number.

    (A proxy with torch.Tensor as its `__class__` would crash torch, which takes it for one in C++ too.)
    """
    if not isinstance(value, MetaProxy) or type_of(value) is MetaProxy:
        return isinstance(value, classes)
    asked = classes if isinstance(classes, tuple) else (classes,)
    if any(isinstance(cls, type(torch.FloatTensor)) for cls in asked):
        help = "compare its `dtype`, which the graph follows"
        raise TraceError(
            f"the trunk's own code asks if `{value.node.name}` is of a type such as torch.FloatTensor", help
        )
    if nn.Parameter in asked and value.node.op != "get_attr" and isinstance(value.values[0], torch.Tensor):
        help = "a graph takes both for a tensor: leave it out of the module's code"
        raise TraceError(f"the trunk's own code asks if `{value.node.name}` is a parameter", help)
    return isinstance(value.values[0], classes) or any(cls in MetaProxy.__mro__[:-1] for cls in asked)


def is_callable(value: Any) -> bool:
    """`callable` for traced code: tensors and numbers are not, although their proxies are."""
    return callable(value.values[0] if isinstance(value, MetaProxy) and type_of(value) is not MetaProxy else value)


class _TypeOf(type):
    """What makes `Type` answer as `type` does."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and type(args[0]) is MetaProxy:
            return type_of(args[0])
        return type(*args, **options)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, other: Any) -> bool:
        return issubclass(other, type)


class Type(type, metaclass=_TypeOf):
    """`type` for traced code: the type of a proxy is that of what it stands for."""


BUILTINS: Mapping[str, Callable[..., Any]] = {"isinstance": is_instance, "type": Type, "callable": is_callable}
"""What traced code gets for built-in functions that would see a proxy."""

_OF_FX = ("torch.fx.proxy", "torch.fx.node", "torch.fx.graph", __name__)


@cache
def _reads_class(code: CodeType) -> dict[int, bool]:
    """Offsets of the instructions that read `__class__` or match a class."""
    return {
        i.offset: True
        for i in dis.get_instructions(code)
        if i.opname == "MATCH_CLASS" or (i.opname in ("LOAD_ATTR", "LOAD_METHOD") and i.argval == "__class__")
    }


def known(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of the runs that count: a call may fail at another image size."""
    return tuple(v for i, v in enumerate(values) if i < 2 or not isinstance(v, Failed))


def differs_by_size(values: tuple[Any, ...]) -> bool:
    """Whether a number differs between two image sizes."""
    return len(values) > 2 and isinstance(values[2], (int, float)) and bool(values[2] != values[0])


def constant(proxy: fx.Proxy) -> Any:
    """The value of a proxy, if it is a number that depends neither on the batch nor on the image size.

    A number that is computed from an image size is refused even if it is the same in all runs: `H % 32` may differ for
    the next size.

    Raises:
        SizeDecision: if it depends on the image size.
        TraceError: if it depends on the batch, or is a tensor.
    """
    first, second, *_ = proxy.node.meta["values"]
    if isinstance(first, Failed):
        raise TraceError(first.__dict__["reason"])
    if isinstance(first, torch.Tensor):
        raise TraceError(
            f"control flow depends on the numbers in the tensor `{proxy.node.name}`",
            "a graph cannot branch on data: use `torch.where` in the module's code",
        )
    if proxy.node.meta["sized"]:
        raise decision(proxy, proxy.node.name)
    if first != second:
        raise TraceError(
            f"control flow depends on `{proxy.node.name}`, which changes with the batch",
            "one graph serves every batch size: let the module's code do the same for all of them",
        )
    return decide(proxy)


def unpacked(proxy: MetaProxy) -> Any:
    """A call's result with real tuples, lists, dicts and constants, so that the traced code can tell what it got."""
    first = proxy.values[0]
    items = children(first)
    if items is not None:
        keys = [key for key, _ in items]
        if any(keys != [key for key, _ in children(value) or ()] for value in known(proxy.values)[2:]):
            raise decision(proxy, f"len({proxy.node.name})")
        return rebuilt(first, [unpacked(proxy[key]) for key in keys])
    if isinstance(first, torch.Tensor) or proxy.node.meta["sized"] or proxy.node.meta["origins"]:
        return proxy
    return first if all(bool(value == first) for value in known(proxy.values)) else proxy


def decision(proxy: fx.Proxy, what: str) -> SizeDecision:
    """The error for code that needs the number behind an image size.

    The tracer remembers it: libraries catch errors and try another way.
    """
    found = SizeDecision(f"control flow depends on `{what}`, which changes with the image size", enclosing_function())
    proxy.tracer.decisions.append(found)  # type: ignore[attr-defined]
    return found


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
