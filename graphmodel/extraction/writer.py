"""Writes blocks, and parts of them, in a thread while the next batch is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from graphmodel.extraction.layout import Block
from graphmodel.extraction.store import Store


class Writer:
    """A thread that writes; no more than one block or part waits.

    Args:
        store: where to.
        grow: whether the number of rows is not known in advance.

    Attributes:
        saved: first rows and ends of the parts that are in the store, by the first row of their block.
    """

    def __init__(self, store: Store, *, grow: bool) -> None:
        self.store, self.grow = store, grow
        self.saved: dict[int, list[tuple[int, int]]] = {}
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written: parts never keep the model waiting."""
        return self._pending is None or self._pending.done()

    def write(self, block: Block) -> None:
        """Commits a block, and deletes its parts."""

        def run() -> None:
            if self.grow:
                self.store.grow(block.start + len(block.status))
            self.store.write(block)
            self.store.parts.delete(self.saved.pop(block.start, []))

        self._submit(run)

    def save(self, part: Block, ready: Callable[[], None]) -> None:
        """Saves a part, once its values are there."""
        rows = self.store.layout.rows

        def run() -> None:
            ready()
            self.store.save(part)
            self.saved.setdefault(part.start // rows * rows, []).append((part.start, part.start + len(part.status)))

        self._submit(run)

    def wait(self) -> None:
        """Waits for what is being written.

        Raises:
            CompileError: what went wrong with it.
        """
        if self._pending is not None:
            self._pending.result()

    def _submit(self, run: Callable[[], None]) -> None:
        self.wait()
        self._pending = self._thread.submit(run)
