"""Says in one line which package is missing and how to install it."""

from __future__ import annotations

from importlib.util import find_spec

from graphmodel.diagnostics import fail


def need(*names: str, why: str = "stores of features") -> None:
    """Checks that packages of the extra `extract` are installed.

    Raises:
        CompileError: GM600.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise fail("GM600", f"{why} need {listed}", help="pip install 'graphmodel[extract]'")
