"""What an export format is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphmodel.exporters.program import Program

Run = Callable[[tuple[Any, ...]], Any]
"""A loaded file: from the module's arguments to its outputs, in the module's form or as a flat list in order."""


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: its name on the command line.
        suffix: how its files end.
        write: writes a program to a path; files that belong to it go beside it.
        load: loads such a file.
        packages: packages that it needs besides torch.
        training: whether it can hold a model in training mode.
    """

    name: str
    suffix: str
    write: Callable[[Program, Path], None]
    load: Callable[[Path], Run]
    packages: tuple[str, ...] = ()
    training: bool = False
