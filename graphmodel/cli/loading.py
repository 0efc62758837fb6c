"""Says on a terminal that a large library is being loaded, if that takes more than a second; the line disappears."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TextIO

LIBRARIES = frozenset({"torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "sklearn", "zarr"})
"""What commands import that may take seconds."""


class Notice:
    """One line on a stream while libraries are loaded.

    Args:
        stream: a terminal.
        delay: how long nothing is said, in seconds.
    """

    def __init__(self, stream: TextIO, delay: float = 1.0) -> None:
        self.stream, self.delay = stream, delay
        self.open: list[str] = []
        self.is_shown = False
        self.lock = threading.Lock()

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """Shows the name of a library if the block takes long; a library that it imports in turn is not named."""
        self.open.append(name)
        timer = threading.Timer(self.delay, self._show) if len(self.open) == 1 else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            self.open.pop()
            if timer is not None:
                timer.cancel()
                self._clear()

    def _show(self) -> None:
        with self.lock:
            if self.open and not self.is_shown:
                self.stream.write(f"loading {self.open[0]} ...")
                self.stream.flush()
                self.is_shown = True

    def _clear(self) -> None:
        with self.lock:
            if self.is_shown:
                self.stream.write("\r\x1b[K")
                self.stream.flush()
                self.is_shown = False


class _Finder(MetaPathFinder):
    """Finds the libraries as Python does, and has them loaded under the notice."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in LIBRARIES or fullname in self.looking:
            return None
        self.looking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.looking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.notice)
        return spec


class _Loader(Loader):
    """A library's own loader, which takes its place again before the library runs."""

    def __init__(self, own: Any, notice: Notice) -> None:
        self.own, self.notice = own, notice

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self.own
        try:
            return self.own.create_module(spec)  # type: ignore[no-any-return]
        finally:
            spec.loader = self

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        with self.notice.loading(module.__name__):
            self.own.exec_module(module)


def announce_libraries() -> None:
    """From now on, the loading of a library that takes long is shown, if stderr is a terminal."""
    import os

    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        sys.meta_path.insert(0, _Finder(Notice(sys.stderr)))
