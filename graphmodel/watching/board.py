"""What the page shows, passed from the loop that draws to the threads that serve."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["loading", "valid", "invalid"]


@dataclass(frozen=True)
class Shown:
    """One spec as the page shows it.

    Attributes:
        name: the path as the user gave it.
        state: `loading` until it has been read for the first time.
        title: the model's name, once there is a picture.
        page: the last picture that could be drawn, as a whole page; empty before the first.
        levels: the names of its levels of detail.
        picture: the number of that picture; it counts up.
        complete: whether the picture has all its levels of detail and numbers.
        diagnostics: what was found, as the page shows it.
        files: the files that were read: name, absolute path, link for an editor, text.
        seconds: how long it took from the save to the picture or the diagnostics.
    """

    name: str
    state: State = "loading"
    title: str = ""
    page: str = field(default="", repr=False)
    levels: tuple[str, ...] = ()
    picture: int = 0
    complete: bool = True
    diagnostics: tuple[dict[str, Any], ...] = ()
    files: tuple[dict[str, str], ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """What the page's script is told; it fetches the picture itself."""
        return {
            "name": self.name,
            "state": self.state,
            "title": self.title,
            "picture": self.picture,
            "complete": self.complete,
            "diagnostics": self.diagnostics,
            "files": self.files,
            "seconds": round(self.seconds, 3),
        }


class Board:
    """The specs as they are shown now; safe to use from several threads.

    Args:
        specs: what is shown first.
    """

    def __init__(self, specs: list[Shown]) -> None:
        self._specs = specs
        self._version = 1
        self._changed = threading.Condition()
        self._closed = False

    def put(self, index: int, shown: Shown) -> None:
        """Shows a spec anew."""
        with self._changed:
            self._specs[index] = shown
            self._version += 1
            self._changed.notify_all()

    def __getitem__(self, index: int) -> Shown:
        with self._changed:
            return self._specs[index]

    def __len__(self) -> int:
        return len(self._specs)

    def close(self) -> None:
        """Ends every wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def after(self, version: int, timeout: float) -> tuple[int, str] | None:
        """The version of the board and the JSON of what it shows, once it is newer than `version`.

        Returns:
            None if nothing changed within `timeout` seconds.

        Raises:
            EOFError: if the board is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._version > version, timeout)
            if self._closed:
                raise EOFError
            if self._version <= version:
                return None
            shown, version = [spec.to_dict() for spec in self._specs], self._version
        return version, json.dumps({"specs": shown}, ensure_ascii=False)
