"""The loop of `graphmodel watch`: waits for saves, draws what changed, and tells the page and the terminal."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphmodel.watching.board import Board, Shown
from graphmodel.watching.drawing import MISSING_FILES, Settings, drawn
from graphmodel.watching.files import INTERVAL, Files
from graphmodel.watching.server import Server

if TYPE_CHECKING:
    from graphmodel.build.remembered import TracedTrunks

RETRY = 1.0
"""Seconds after which a spec is read again whose findings concern a file that does not exist."""


class Watch:
    """Specs that are drawn again whenever one of their files is saved.

    Args:
        specs: the paths of the specs; each is a model of its own.
        settings: how to read and draw them.
        port: the port of the page; 0 takes a free one.
        report: called with everything that is shown anew.

    Raises:
        OSError: if the port is not free.
    """

    def __init__(
        self,
        specs: Sequence[str],
        settings: Settings | None = None,
        *,
        port: int = 0,
        report: Callable[[Shown], None] = lambda shown: None,
    ) -> None:
        self.settings = settings or Settings()
        self.report = report
        self.board = Board([Shown(name) for name in specs])
        self.files = [Files() for _ in specs]
        self.trunks: list[TracedTrunks] = [{} for _ in specs]
        self.retry_at = [0.0] * len(specs)
        self.server = Server(self.board, port)
        self.is_stopped = False

    @property
    def url(self) -> str:
        """The address of the page."""
        return self.server.url

    def run(self) -> None:
        """Serves and draws until `stop` is called, in another thread or by an exception."""
        self.server.start()
        try:
            for index in range(len(self.board)):
                self.draw(index)
            gc.freeze()  # libraries made a million objects that stay: looking for garbage among them takes time
            while not self.is_stopped:
                time.sleep(INTERVAL)
                for index in range(len(self.board)):
                    if self.files[index].settled() or self.is_to_retry(index):
                        self.draw(index)
        finally:
            gc.unfreeze()
            self.server.stop()

    def stop(self) -> None:
        """Ends `run`."""
        self.is_stopped = True

    def is_to_retry(self, index: int) -> bool:
        """Whether a file that a finding misses may exist by now; nobody says where such a file would be."""
        shown = self.board[index]
        if shown.state != "invalid" or not any(d["code"] in MISSING_FILES for d in shown.diagnostics):
            return False
        return time.monotonic() >= self.retry_at[index]

    def draw(self, index: int) -> None:
        """Draws a spec as it is now; if it is saved meanwhile, what is not yet done is left to the next time."""
        began, before, files = time.monotonic(), self.board[index], self.files[index]
        names = [before.name, *self.settings.overlays, *(file["name"] for file in before.files)]
        files.remember(names)
        for shown in drawn(before, self.settings, self.trunks[index]):
            files.add(file["name"] for file in shown.files)
            self.retry_at[index] = time.monotonic() + RETRY
            is_same = (shown.state, shown.diagnostics, shown.files) == (before.state, before.diagnostics, before.files)
            if is_same and shown.state == "invalid":
                return  # it was read again for a file that is still missing
            shown = replace(shown, seconds=time.monotonic() - began)
            self.board.put(index, shown)
            self.report(shown)
            if files.changed() or self.is_stopped:
                return
