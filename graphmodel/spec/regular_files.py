"""Tells files from what looks like one: opening a FIFO waits for a writer, and a device may never end."""

from __future__ import annotations

import stat
from pathlib import Path

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
