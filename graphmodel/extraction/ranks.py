"""The processes of a run under `torchrun`: which commits each writes, and where they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from graphmodel.diagnostics import fail

_T = TypeVar("_T")
_PATIENCE = timedelta(days=7)
"""How long a process waits for one that has more to do."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a run.

    Attributes:
        rank: its number.
        world: the number of processes.
        group: their process group.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process makes and finishes the store."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Every `world`-th item."""
        return list(items[self.rank :: self.world])

    def gather(self, value: _T) -> list[_T]:
        """The value of each process, once all have got here."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, value: _T | None) -> _T:
        """What the first process has."""
        return self.gather(value)[0]  # type: ignore[return-value]


def of_environment() -> tuple[int, int]:
    """The number of this process, and how many there are, as `torchrun` sets them.

    Raises:
        CompileError: GM620 if `RANK` or `WORLD_SIZE` is not valid.
    """
    found = {}
    for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")):
        text = os.environ.get(name, default)
        if not text.isascii() or not text.isdigit():
            message = f"the environment variable `{name}` is {text!r}, not a whole number"
            raise fail("GM620", message, help=f"unset it, or start the processes with torchrun, which sets `{name}`")
        found[name] = int(text)
    rank, world = found["RANK"], found["WORLD_SIZE"]
    if world > 1 and rank >= world:
        message = f"the environment variable `RANK` is {rank}, and `WORLD_SIZE` {world}"
        raise fail("GM620", message, help="ranks go from 0 to WORLD_SIZE - 1; torchrun sets both")
    return (rank, world) if world > 1 else (0, 1)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process and its siblings: of the process group that there is, or as `torchrun` says."""
    started = False
    if not dist.is_available():
        yield Ranks()
        return
    if not dist.is_initialized():
        if of_environment()[1] < 2:
            yield Ranks()
            return
        dist.init_process_group("gloo", timeout=_PATIENCE)
        started = True
    try:
        world = dist.get_world_size()
        group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world > 1 else None
        yield Ranks(dist.get_rank(), world, group)
    finally:
        if started:
            dist.destroy_process_group()
