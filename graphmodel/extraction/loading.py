"""What happens in the processes that load: which rows make a batch, and what becomes of a row that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from graphmodel.diagnostics import first_line


@dataclass(frozen=True)
class Plan:
    """Row numbers in batches.

    Attributes:
        starts: first rows of the commits.
        rows: the number of rows of a commit.
        length: the number of samples.
        batch_size: samples in a batch.
        begun: the first row that is missing, by the first row of a commit of which some are there.
    """

    starts: Sequence[int]
    rows: int
    length: int
    batch_size: int
    begun: Mapping[int, int]

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            stop = min(start + self.rows, self.length)
            for first in range(self.begun.get(start, start), stop, self.batch_size):
                yield list(range(first, min(first + self.batch_size, stop)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Failure:
    """Why a sample cannot be read, or samples cannot be made into a batch."""

    reason: str


class Guarded(Dataset[Any]):
    """A dataset that returns what it raises, so that one unreadable image does not end a run."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        try:
            return row, self.dataset[row]
        except Exception as error:  # decoders and the user's own code raise anything
            return row, Failure(f"{type(error).__name__}: {first_line(error)}")

    def __getitems__(self, rows: list[int]) -> list[Any]:
        if hasattr(self.dataset, "__getitems__"):
            try:
                return list(zip(rows, self.dataset.__getitems__(rows), strict=True))
            except Exception:  # one by one, to find out which
                return [self[row] for row in rows]
        return [self[row] for row in rows]


@dataclass(frozen=True)
class Collate:
    """The rows that could be read, their batch, and the rows that could not."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> tuple[list[int], Any, list[tuple[int, str]]]:
        failures = [(row, item.reason) for row, item in items if isinstance(item, Failure)]
        good = [(row, item) for row, item in items if not isinstance(item, Failure)]
        try:
            _check_keys([item for _, item in good])
            batch = self.collate([item for _, item in good]) if good else None
        except Exception as error:  # the user's own code raises anything
            batch = Failure(f"{type(error).__name__}: {first_line(error)}")
        return [row for row, _ in good], batch, failures


def _check_keys(samples: list[Any]) -> None:
    """`default_collate` takes the keys of the first sample, and would lose what only others have."""
    keys = [set(sample) for sample in samples if isinstance(sample, Mapping)]
    differing = next((each ^ keys[0] for each in keys if each != keys[0]), None)
    if differing:
        raise ValueError(f"some samples have the key `{min(map(str, differing))}` and others have not")
