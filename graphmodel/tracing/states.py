"""torch's global states (autocast, grad mode) that a trunk's code may branch on, as calls that a graph can record."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.fx._symbolic_trace import is_fx_tracing
from torch.overrides import handle_torch_function, has_torch_function

_is_autocast_enabled = torch.is_autocast_enabled  # as it is when nothing is traced

STATES = {
    "is_autocast_cpu_enabled": "autocast",
    "get_autocast_dtype": "autocast",
    "get_autocast_cpu_dtype": "autocast",
    "get_autocast_gpu_dtype": "autocast",
    "is_grad_enabled": "the grad mode",
    "is_inference_mode_enabled": "the grad mode",
}
"""Functions of torch that read a state, and what code decides by that calls them."""
_READERS = {name: getattr(torch, name) for name in STATES if hasattr(torch, name)}
_FUNCTIONS = (BuiltinFunctionType, FunctionType)


def torch_state(name: str, *args: Any) -> Any:
    """A function of torch that reads a state, by its name in `STATES`, as one that `torch.fx` can record."""
    if has_torch_function(args):
        return handle_torch_function(torch_state, args, name, *args)
    if args and args[0] == "meta":
        return torch.float32
    return _READERS[name](*args)


def autocast_enabled(device_type: Any = None) -> Any:
    """`torch.is_autocast_enabled` as a function that `torch.fx` can record; any device if none is given."""
    if has_torch_function((device_type,)):
        return handle_torch_function(autocast_enabled, (device_type,), device_type)
    if device_type is None:
        return _is_autocast_enabled("cuda") or _is_autocast_enabled("cpu")
    return device_type != "meta" and _is_autocast_enabled(device_type)


@contextmanager
def refused_contexts(active: Callable[[], bool], error: Callable[[str, str], Exception]) -> Iterator[None]:
    """Inside, turning gradients off is an error, unless `active()` says that a closed module does so.

    A graph has no contexts: what runs without gradients in the trunk would have gradients in the graph.
    """
    contexts: tuple[Any, ...] = (torch.no_grad, torch.inference_mode)
    enter = [context.__enter__ for context in contexts]
    init = torch.set_grad_enabled.__init__

    def check() -> None:
        if not active():
            raise error(
                "the trunk's own code turns gradients off between two features",
                "freeze these parts in the spec (`freeze`), or read only the trunk's own result",
            )

    def refusing(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def refuse(self: Any) -> Any:
            check()
            return plain(self)

        return refuse

    def init_mode(self: Any, mode: bool) -> None:
        if not mode:
            check()
        init(self, mode)

    for context, plain in zip(contexts, enter, strict=True):
        context.__enter__ = refusing(plain)
    torch.set_grad_enabled.__init__ = init_mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        for context, plain in zip(contexts, enter, strict=True):
            context.__enter__ = plain
        torch.set_grad_enabled.__init__ = init  # type: ignore[method-assign]


@contextmanager
def refused_modes(active: Callable[[], bool], error: Callable[[str, str], Exception]) -> Iterator[None]:
    """Inside, switching a module between training and eval mode is an error, unless a closed module does so.

    A graph calls the modules in the mode that they are in.
    """
    plain = nn.Module.__setattr__

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        if name == "training" and not active() and bool(value) is not self.__dict__.get(name, value):
            what = "training" if value else "eval"
            raise error(
                f"the trunk's own code puts a {type(self).__name__} into {what} mode while it runs",
                "let the class's own `train()` do it, freeze it in the spec (`freeze`), or read only the trunk's own "
                "result",
            )
        plain(self, name, value)

    nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__setattr__ = plain  # type: ignore[method-assign]


@contextmanager
def restored_draws() -> Iterator[Callable[[], bool]]:
    """Takes back what is drawn inside from the generators of Python and numpy.

    Yields:
        A function that tells whether anything was drawn.
    """
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy is not None else ()

    def drawn() -> bool:
        now = numpy.random.get_state() if numpy is not None else ()
        same = all(bool((a == b).all()) if hasattr(a, "all") else a == b for a, b in zip(numpy_state, now, strict=True))
        return random.getstate() != python_state or not same

    try:
        yield drawn
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


@contextmanager
def recorded_states(
    record: Callable[..., Any], trunk: nn.Module, builtin: Mapping[str, Callable[..., Any]]
) -> Iterator[None]:
    """Inside, functions that read a state go to `record(function, args)`, and the trunk's code has these built-ins.

    They are replaced in torch, and under the names by which the packages of the trunk's modules import them. Torch's
    own code (`torch.utils.checkpoint`) reads them as they are: its results do not depend on them.
    """

    def replacement(plain: Callable[..., Any], function: Callable[..., Any], *name: str) -> Callable[..., Any]:
        def read(*args: Any, **options: Any) -> Any:
            if str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0] == "torch":
                return plain(*args, **options)
            return record(function, (*name, *args, *options.values()))

        return read

    new = {reader: replacement(reader, torch_state, name) for name, reader in _READERS.items()}
    new[_is_autocast_enabled] = replacement(_is_autocast_enabled, autocast_enabled)
    new[is_fx_tracing] = lambda: False  # what runs is the trunk as it is, not the trace
    new[torch.is_tensor] = lambda value: builtin["isinstance"](value, torch.Tensor)
    changed: list[tuple[dict[str, Any], str, Any]] = []
    scopes = _scopes(trunk.modules())
    shadowed = [(scope, name) for scope in scopes for name in builtin if name not in scope]
    wanted = set(map(id, new))
    try:
        for scope, name in shadowed:
            scope[name] = builtin[name]
        for scope in (vars(torch), vars(torch.fx._symbolic_trace), *scopes):
            if wanted.isdisjoint(map(id, list(scope.values()))):  # most: they are hundreds
                continue
            for name, value in list(scope.items()):
                found = new.get(value) if isinstance(value, _FUNCTIONS) else None
                if found is not None:
                    changed.append((scope, name, value))
                    scope[name] = found
        yield
    finally:
        for scope, name, value in changed:
            scope[name] = value
        for scope, name in shadowed:
            scope.pop(name, None)


def _scopes(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """The namespaces of the packages that define the classes of some modules, torch's own left out."""
    kinds = {type(module) for module in modules}
    packages = {cls.__module__.partition(".")[0] for kind in kinds for cls in kind.__mro__}
    packages -= {"torch", "builtins", "graphmodel"}
    loaded = list(sys.modules.items())
    return [
        vars(module) for name, module in loaded if name.partition(".")[0] in packages and hasattr(module, "__dict__")
    ]
