"""Wrappers for trainers; one file for each, which needs the trainer's package (an extra of graphmodel)."""

from __future__ import annotations

from importlib.util import find_spec


def require(package: str, extra: str) -> None:
    """Explains what to install if a package is missing.

    Raises:
        ModuleNotFoundError: names the command.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"this needs `{package}`: pip install 'graphmodel[{extra}]'", name=package)
