"""Tells files from what looks like one: opening a FIFO waits for a writer, and a device may never end."""

from __future__ import annotations

import stat
from itertools import islice
from pathlib import Path

from graphmodel.diagnostics import did_you_mean

_KINDS = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))


def other_than_a_file(path: Path) -> str:
    """What a path names instead of a file, such as `a FIFO`; empty for a file.

    Raises:
        OSError: if there is nothing of that name.
        ValueError: if the path has a null character.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return ""
    return next((name for matches, name in _KINDS if matches(mode)), "a device")


def path_help(path: str | Path) -> str:
    """What to do about a path at which there is nothing: the file beside it with the most similar name, if any."""
    try:
        beside = [entry.name for entry in islice(Path(path).parent.iterdir(), 1000)]
    except (OSError, ValueError):
        beside = []
    return did_you_mean(Path(path).name, sorted(beside)) or "check the path"
