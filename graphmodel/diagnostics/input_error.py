"""The error of a compiled module that is called with something else than it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphmodel.diagnostics.findings import CompileError, Diagnostic


class InputError(CompileError, ValueError):
    """A compiled module was called with something else than it takes.

    Attributes:
        args: the diagnostic's code, message and help.
    """

    omitted = 0

    if TYPE_CHECKING:

        def __init__(self, code: str, message: str, help: str) -> None: ...

    else:
        # Exception's own constructor: `torch.compile` can follow it, so that its error shows the message.
        __init__ = Exception.__init__

    @property
    def diagnostics(self) -> list[Diagnostic]:  # type: ignore[override]
        """The one finding."""
        code, message, help = self.args
        return [Diagnostic(code, message, None, help)]
