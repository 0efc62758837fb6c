"""The processes of a run under `torchrun`: which commits each writes, and where they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

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


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process and its siblings: of the process group that there is, or as `torchrun` says."""
    started = False
    if not dist.is_available():
        yield Ranks()
        return
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
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
