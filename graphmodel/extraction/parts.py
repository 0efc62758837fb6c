"""Parts of a block that is not full yet: files beside the arrays that a run which was killed goes on from."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from graphmodel.extraction.layout import Block
from graphmodel.extraction.reading import listed

_FOLDER = "pending"


@dataclass
class Parts:
    """The parts that are in a store.

    Each is a file `FIRST-STOP.npz` with the rows from FIRST to STOP - 1 of every array. A file is written as a whole,
    and deleted when its block is in the arrays.

    Attributes:
        folder: the store's path for zarr.
        text_ids: whether the samples have ids that are text.
    """

    folder: Any
    text_ids: bool

    def found(self) -> dict[int, int]:
        """The last row of each part, plus one, by its first row."""
        prefix = f"{self.folder.path}/{_FOLDER}/".lstrip("/")
        ranges = (_range(key.rpartition("/")[2]) for key in sync(listed(self.folder.store, prefix)))
        return dict(found for found in ranges if found is not None)

    def write(self, block: Block) -> None:
        """Writes rows as a part."""
        arrays: dict[str, Any] = {f"column {name}": values for name, values in block.columns.items()}
        arrays |= {"status": block.status, "ids": np.array(block.ids, dtype=str if self.text_ids else np.int64)}
        arrays |= {} if block.label is None else {"label": block.label}
        arrays |= {"paths": np.array(block.paths, dtype=str)} if block.paths else {}
        file = io.BytesIO()
        np.savez(file, **arrays)
        buffer = default_buffer_prototype().buffer.from_bytes(file.getvalue())
        sync(self._path(block.start, block.start + len(block.status)).set(buffer))

    def read(self, start: int, stop: int) -> Block | None:
        """The rows of a part; None if its file is damaged."""
        buffer = sync(self._path(start, stop).get(default_buffer_prototype()))
        if buffer is None:
            return None
        try:
            with np.load(io.BytesIO(buffer.to_bytes()), allow_pickle=False) as arrays:
                return Block(
                    start,
                    {n.removeprefix("column "): arrays[n] for n in arrays.files if n.startswith("column ")},
                    arrays["status"],
                    arrays["label"] if "label" in arrays.files else None,
                    arrays["ids"].tolist(),
                    arrays["paths"].tolist() if "paths" in arrays.files else [],
                )
        except Exception:  # zipfile and numpy raise many kinds of errors; the rows are computed again
            return None

    def delete(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Deletes parts."""
        for start, stop in ranges:
            sync(self._path(start, stop).delete())

    def clear(self) -> None:
        """Deletes all parts."""
        sync((self.folder / _FOLDER).delete_dir())

    def _path(self, start: int, stop: int) -> Any:
        return self.folder / f"{_FOLDER}/{start}-{stop}.npz"


def chains(parts: dict[int, int], starts: Sequence[int], rows: int) -> dict[int, list[tuple[int, int]]]:
    """For each block, the parts that follow one another from its first row.

    >>> chains({0: 2, 2: 3, 4: 5, 9: 10}, [0, 4, 8], 4)
    {0: [(0, 2), (2, 3)], 4: [(4, 5)]}
    """
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for start in starts:
        row = start
        while row in parts and row < parts[row] <= start + rows:
            found[start].append((row, parts[row]))
            row = parts[row]
    return dict(found)


def _range(name: str) -> tuple[int, int] | None:
    start, _, stop = name.removesuffix(".npz").partition("-")
    return (int(start), int(stop)) if start.isdigit() and stop.isdigit() else None
