"""Choices that a trunk's own code makes by a dtype, a device, the batch size or a state of torch.

A trace takes one branch of them. If the code takes the same branch for every dtype, device or batch size, that is all.
Otherwise the graph checks that it is run as it was traced: `half()` would else give another result than the trunk's.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import fx
from torch.fx.node import has_side_effect
from torch.overrides import handle_torch_function, has_torch_function

from graphmodel.components.structure import map_structure
from graphmodel.diagnostics.input_error import InputError
from graphmodel.tracing.states import STATES, autocast_enabled, torch_state

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICES = tuple(map(torch.device, ("cpu", "cuda", "mps", "xpu")))
BATCHES = (1, *range(4, 18), 31, 32, 63, 64, 100, 128, 1000)
"""What a choice is tried with besides the dtype, device and batch sizes of the trace."""

PLAIN = (bool, int, float, str, torch.dtype, torch.device)
"""Values that are looked up and compared by what they are."""


# -- in the graph -----------------------------------------------------------------------------------------------------


@has_side_effect
def check_choice(found: Any, expected: Any, kind: str, then: Sequence[Any], *now: Any) -> None:
    """Checks that a trunk's code takes the branch that the graph was made of.

    Args:
        found: what the code branches on.
        expected: what it was when the trunk was compiled.
        kind: what the code decides by; a key of `HELP`.
        then: the dtypes, devices or batch sizes that it was computed from when the trunk was compiled.
        now: the same at present.

    Raises:
        InputError: GM543 if it is something else.
    """
    if has_torch_function((found, *now)):  # a proxy of torch.fx, or another type that records calls
        handle_torch_function(check_choice, (found, *now), found, expected, kind, then, *now)
        return
    if isinstance(found, torch.Tensor):  # a size while `torch.jit` traces
        return
    for value in now:
        if isinstance(value, torch.device) and value.type == "meta":  # nothing is computed
            return
    if isinstance(expected, bool):
        if found if expected else not found:
            return
    elif found == expected:
        return
    at_first, at_present = ", ".join([f"{v}" for v in then]), ", ".join([f"{v}" for v in now])
    raise InputError(
        "GM543",
        f"the trunk's own code decides by {kind}: with {at_present} it does something else than with {at_first}, "
        "for which it was compiled",
        HELP[kind],
    )


_CLOSED = "read only the trunk's own result, for which its code decides anew in every call"
HELP = {
    "the dtype": "run it in the dtype that it was compiled for, or compile it with trunk and input in the other one: "
    '`trunks={"trunk": trunk.half()}`, `inputs: {images: {dtype: float16, …}}`',
    "the batch size": f"run it with another batch size, or {_CLOSED}",
    "the device": _CLOSED,
    "autocast": f"run it without autocast, or {_CLOSED}",
    "the grad mode": _CLOSED,
    "the memory format": f"run it in the memory format that it was compiled for, or {_CLOSED}",
}
"""What a trunk's code may decide by, and how to go on."""

_Limits = torch.finfo  # as it is when nothing is traced


def dtype_limits(dtype: Any) -> Any:
    """`torch.finfo` as a function that `torch.fx` can record."""
    if has_torch_function((dtype,)):
        return handle_torch_function(dtype_limits, (dtype,), dtype)
    return torch.finfo(dtype)


LAYOUT_METHODS = ("is_contiguous", "stride", "storage_offset")
"""Methods that ask for a tensor's memory format."""


def _reads_gradients(node: fx.Node) -> bool:
    return node.target is getattr and node.args[1] in ("requires_grad", "is_leaf")


CHECKS = (torch._assert, check_choice)
"""Functions that a graph calls for their errors alone."""


# -- while tracing ----------------------------------------------------------------------------------------------------


def note_origins(node: fx.Node) -> None:
    """Writes what a value that is not a tensor depends on into `node.meta["origins"]`.

    An origin is a call whose value another dtype, device or batch size would change; `meta["kind"]` says which of them,
    and `meta["choices"]` has those other values.
    """
    node.meta["origins"] = ()
    first = node.meta["values"][0]
    if isinstance(first, torch.Tensor) or node.op not in ("call_function", "call_method"):
        return
    if node.target == "type" and isinstance(first, str):
        node.meta["values"] = tuple(_on_cpu(v) for v in node.meta["values"])
    below = {o: None for n in node.all_input_nodes for o in n.meta["origins"]}
    kind, choices = _choices(node, below)
    if choices:
        node.meta.update(kind=kind, choices=choices)
        below = {node: None}
    node.meta["origins"] = tuple(below)


def _choices(node: fx.Node, below: Mapping[fx.Node, None]) -> tuple[str, list[Any]]:
    """Other values that a call may have; none if it is computed from such values, or depends on nothing."""
    first, second, *_ = node.meta["values"]
    if node.target is autocast_enabled:
        return "autocast", [not first]
    if node.target is torch_state or _reads_gradients(node):
        kind = STATES.get(str(node.args[0]), "the grad mode")
        return kind, [not first] if isinstance(first, bool) else [dtype for dtype in DTYPES if dtype != first]
    if isinstance(first, torch.device):
        return "the device", list(DEVICES)
    if below or node.target is check_choice:
        return "", []
    if type(first) is int and type(second) is int and first != second:
        batch, other = _batches(node)
        return "the batch size", [first + (second - first) * (b - batch) // (other - batch) for b in BATCHES]
    shapes = node.target == "stride" and isinstance(first, tuple)
    if not (shapes or isinstance(first, (*PLAIN, _Limits))) or (type(first) is int and node.target == "size"):
        return "", []
    values = {n: n.meta["values"][0] for n in node.all_input_nodes}
    floats = [n for n, v in values.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    if node.target in LAYOUT_METHODS:
        others = [v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for v in values.values()]
        found = [_attempt(node, dict(zip(values, others, strict=True)))]
        return "the memory format", found if found[0] != first else []
    found = []
    for which in [floats, *([[n] for n in floats] if len(floats) > 1 else [])] if floats else []:
        cast = ({**values, **{n: values[n].to(dtype) for n in which}} for dtype in DTYPES)
        found += [_on_cpu(_attempt(node, other)) for other in cast]
    return "the dtype", found if any(type(v) is not type(first) or v != first for v in found) else []


def _on_cpu(value: Any) -> Any:
    """The value of `x.type()` as it is on a CPU."""
    return value.replace("torch.meta.", "torch.") if isinstance(value, str) else value


def _batches(node: fx.Node) -> tuple[int, int]:
    x = next(iter(node.graph.nodes)).meta["values"]
    return int(x[0].shape[0]), int(x[1].shape[0])


def decide(proxy: fx.Proxy) -> Any:
    """The value of a proxy that the trunk's code branches on; other answers are refused by the graph at run time."""
    node = proxy.node
    origins: tuple[fx.Node, ...] = node.meta["origins"]
    if not origins:
        return node.meta["values"][0]
    if "decided" not in node.meta:
        devices = {o: DEVICES[0] for o in origins if isinstance(o.meta["values"][0], torch.device)}
        expected = _evaluate(node, devices)
        node.meta["decided"] = expected
        if not all(type(v) is type(expected) and v == expected for v in _answers(node, origins)):
            then = tuple(devices.get(o, o.meta["values"][0]) for o in origins)
            args = (proxy, expected, origins[0].meta["kind"], then, *map(proxy.tracer.proxy, origins))
            check = proxy.tracer.create_proxy("call_function", check_choice, args, {})
            check.node.meta["asserts"] = True
    return node.meta["decided"]


def _answers(node: fx.Node, origins: tuple[fx.Node, ...]) -> Iterator[Any]:
    """What the value would be otherwise; an answer like no other if that is not known."""
    kinds = {o.meta["kind"] for o in origins}
    if len(origins) > 1 and kinds not in (
        {"the batch size"},
        {"the device"},
    ):  # maps may have another dtype than weights
        yield _UNKNOWN
    for values in zip(*(o.meta["choices"] for o in origins), strict=False):
        yield _attempt(node, dict(zip(origins, values, strict=True)))


_UNKNOWN = object()


def _attempt(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    try:
        return _evaluate(node, values)
    except Exception:  # any function may be called
        return _UNKNOWN


def _evaluate(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """The value of a node if some others had these values."""
    if node in values:
        return values[node]
    if not any(n in values or n.meta["origins"] for n in node.all_input_nodes):
        return node.meta["values"][0]

    def value(leaf: Any) -> Any:
        return _evaluate(leaf, values) if isinstance(leaf, fx.Node) else leaf

    args, kwargs = map_structure(value, (node.args, dict(node.kwargs)))
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def compares_identity(frame: FrameType) -> bool:
    """Whether a function, or one that it defines or calls by name, may ask if a dtype is the same object as another.

    A proxy is never the same object as `torch.float32`: its own value has to take its place.
    """
    if _compares(frame.f_code):
        return True
    names = set(frame.f_code.co_names)
    classes = [type(value) for value in list(frame.f_locals.values())[:1]]  # `self`
    called = [frame.f_globals.get(name) for name in names]
    called += [getattr(cls, name, None) for cls in classes for name in names]
    return any(_compares(f.__code__, dtypes=True) for f in called if isinstance(f, FunctionType))


@cache
def _compares(code: CodeType, *, dtypes: bool = False) -> bool:
    """Whether code has `is` with something else than a constant such as None; with a dtype of torch, if `dtypes`."""
    before: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IS_OP":
            names = {str(i.argval) for i in before[-4:]}
            if names & _DTYPE_NAMES or not (dtypes or before[-1].opname == "LOAD_CONST"):
                return True
        if instruction.opname != "CACHE":
            before.append(instruction)
    return any(_compares(c, dtypes=dtypes) for c in code.co_consts if isinstance(c, CodeType))


_DTYPE_NAMES = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


@contextmanager
def recorded_builtins(record: Callable[[Callable[..., Any], Any], Any]) -> Iterator[None]:
    """Inside, functions that take no proxies are replaced by ones that `record(function, args)` can record.

    A graph has no contexts: code that turns autocast off is traced as it is without autocast, which is checked.
    """
    finfo, largest, smallest = torch.finfo, builtins.max, builtins.min

    def is_proxy(value: Any) -> bool:
        return isinstance(value, fx.Proxy)

    def limits(*args: Any) -> Any:
        return record(dtype_limits, args) if any(map(is_proxy, args)) else finfo(*args)

    def extreme(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[..., Any]:
        def choose(*args: Any, **options: Any) -> Any:
            items = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
            numbers = [i.node.meta["values"][0] if is_proxy(i) else i for i in items]
            if options or not any(map(is_proxy, items)) or not all(isinstance(n, (int, float)) for n in numbers):
                return plain(*args, **options)
            return reduce(lambda a, b: record(symbolic, (a, b)), items)

        return choose

    init, enter = torch.autocast.__init__, torch.autocast.__enter__

    def init_context(self: Any, device_type: Any, *args: Any, **options: Any) -> None:
        init(self, "cpu" if is_proxy(device_type) else device_type, *args, **options)

    def enter_context(self: Any) -> Any:
        active = record(autocast_enabled, ())
        if isinstance(active, fx.Proxy):  # not in a closed module
            if self._enabled:
                raise NotImplementedError("the trunk's own code turns autocast on between two features")
            decide(active)
        return enter(self)  # type: ignore[no-untyped-call]

    torch.finfo = limits  # type: ignore[misc,assignment]
    torch.autocast.__init__, torch.autocast.__enter__ = init_context, enter_context  # type: ignore[method-assign]
    builtins.max, builtins.min = extreme(largest, torch.sym_max), extreme(smallest, torch.sym_min)
    try:
        yield
    finally:
        torch.finfo = finfo  # type: ignore[misc]
        torch.autocast.__init__, torch.autocast.__enter__ = init, enter  # type: ignore[method-assign]
        builtins.max, builtins.min = largest, smallest
