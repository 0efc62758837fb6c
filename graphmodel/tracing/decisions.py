"""Functions that decide by the image size: found on the stack, and recorded as one call each.

A library's function may branch on a size (`resample_abs_pos_embed` returns its argument if the grid is that of the
weights). Its branch cannot be part of a graph, but the function can: recorded as a call, it decides anew for every
size, as it does in the library.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FrameType
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Closable:
    """A module-level function, and the namespaces by which it is called.

    Attributes:
        function: the function.
        scopes: the namespaces of its own module and of its caller.
    """

    function: Callable[..., Any]
    scopes: tuple[dict[str, Any], ...]


def enclosing_function() -> Closable | None:
    """The innermost function of a library that is being traced; None if a module's own code comes first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(("graphmodel.tracing", "torch.fx")):
            if isinstance(_first_argument(frame), nn.Module):
                return None
            found = inspect.unwrap(frame.f_globals.get(frame.f_code.co_name) or _nothing)
            if getattr(found, "__code__", None) is frame.f_code:
                caller = frame.f_back.f_globals if frame.f_back is not None else {}
                return Closable(found, (frame.f_globals, caller))
        frame = frame.f_back
    return None


def _nothing() -> None:
    """In place of a name that a namespace does not have."""


def _first_argument(frame: FrameType) -> Any:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if frame.f_code.co_argcount else None


@contextmanager
def recorded(functions: Sequence[Closable], record: Callable[[Callable[..., Any], Any, Any], Any]) -> Iterator[None]:
    """Inside, calls of these functions go to `record(function, args, kwargs)`."""
    changed: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for closable in functions:
            wrapper = _wrapper(closable.function, record)
            for scope in closable.scopes:
                for name in [k for k, v in scope.items() if v is closable.function]:
                    changed.append((scope, name, closable.function))
                    scope[name] = wrapper
        yield
    finally:
        for scope, name, function in reversed(changed):
            scope[name] = function


def _wrapper(function: Callable[..., Any], record: Callable[[Callable[..., Any], Any, Any], Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return record(function, args, kwargs)

    return wrapper
