"""What tracing raises, and what stands for the value of a call that raised."""

from __future__ import annotations

from typing import Any

from graphmodel.diagnostics import first_line
from graphmodel.tracing.decisions import Closable


class TraceError(Exception):
    """A trunk that this tracer cannot open.

    Attributes:
        help: what to do about it; `str()` says what the problem is.
    """

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


class SizeDecision(TraceError):
    """The trunk's code needs the number behind an image size, so the graph cannot follow the size.

    Attributes:
        function: the function of the trunk's library in which it happened; None if it was a module's own code. Recorded
            as one call, it decides anew for every size.
    """

    def __init__(self, message: str, function: Closable | None = None) -> None:
        super().__init__(message)
        self.function = function


class NotATensor(TraceError):
    """A feature is a list or another value; the trunk itself runs on these shapes."""


class Failed:
    """The value of a call that cannot run on these shapes; it matters only if a feature needs it.

    A trunk's head may not fit the image while its stages do, and a classifier that helps training may want more pixels.
    """

    def __init__(self, error: Exception) -> None:
        self.__dict__["reason"] = f"{type(error).__name__}: {first_line(error)}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TraceError(self.__dict__["reason"])
