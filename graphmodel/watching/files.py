"""Notices saved files by polling their attributes, which works on every file system and with every way of saving."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

INTERVAL = 0.03
"""Seconds between two looks at the files."""
GRACE = 0.4
"""Seconds that a file may be missing, or empty, while an editor replaces it."""

Signature = tuple[int, int, int] | None
"""Modification time, size and inode; None if there is no such file."""


def signature(path: str) -> Signature:
    """What changes when a file is saved, in place or by renaming another over it."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass
class Files:
    """Some files, and what they were like when they were last read.

    Attributes:
        read: the signatures then, by path.
    """

    read: dict[str, Signature] = field(default_factory=dict)
    _seen: dict[str, Signature] = field(default_factory=dict)
    _since: float = 0.0

    def remember(self, paths: Iterable[str]) -> None:
        """Takes the files as they are now as read; call it before reading them."""
        self.read = {path: signature(path) for path in paths}
        self._seen = {}

    def add(self, paths: Iterable[str]) -> None:
        """Watches further files, which have just been read."""
        for path in paths:
            if path not in self.read:
                self.read[path] = signature(path)

    def changed(self) -> bool:
        """Whether any file is other than it was when it was read."""
        return any(signature(path) != known for path, known in self.read.items())

    def settled(self) -> bool:
        """Whether files changed and whoever writes them is done: two looks in a row see the same.

        A file that has gone or is empty is given a moment: editors delete or truncate files before they write them.
        """
        now = {path: signature(path) for path in self.read}
        if now == self.read:
            self._seen = {}
            return False
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
            return False
        saved = [found for path, found in now.items() if found != self.read[path]]
        is_finished = all(found is not None and found[1] > 0 for found in saved)
        return is_finished or time.monotonic() - self._since >= GRACE
