"""Shards of an uncompressed array on a local disk, mapped into memory: rows are read without zarr."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from graphmodel.extraction.reading import damaged, read_rows

_CHECKSUM = 4
"""Bytes of a CRC-32C, after each chunk and after the index."""


class MappedArray:
    """The rows of one array.

    A shard holds its chunks one after another, each with its checksum, and then an index of their offsets and sizes.
    If the chunks lie in order, as zarr-python writes them, row r of a shard is at a known place. zarr leaves out
    chunks that hold nothing but the fill value, which is NaN; shards without some are read by zarr.

    Source: the zarr v3 codec `sharding_indexed`.
    """

    def __init__(self, location: str, name: str, array: Any) -> None:
        self.location, self.directory, self.array = location, Path(location) / name, array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self.rows, self.chunk = array.shards[0], array.chunks[0]
        self._tail = "/".join("0" for _ in self.shape[1:])
        self._shards: dict[int, Any] = {}

    def take(self, rows: Any, out: Any) -> None:
        """Copies rows to an array, in their order.

        Args:
            rows: row numbers.
            out: `(len(rows), ...)` in the dtype of the array.
        """
        shards = rows // self.rows
        if not len(rows):
            return
        order = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[order])) + 1
        for part in np.split(order, borders):
            shard = int(shards[part[0]])
            inside = rows[part] - shard * self.rows
            out[part] = self._shard(shard)[inside // self.chunk, inside % self.chunk]

    def _shard(self, index: int) -> Any:
        """A shard as `(chunk, row, ...)`."""
        found = self._shards.get(index)
        if found is None:
            found = self._shards[index] = self._map(index)
        return found

    def _map(self, index: int) -> Any:
        path = self.directory / "c" / str(index) / self._tail if self._tail else self.directory / "c" / str(index)
        used = int(min(self.rows, self.shape[0] - index * self.rows) + self.chunk - 1) // self.chunk
        chunks = self.rows // self.chunk
        if not path.exists():
            raise damaged(self.location, f"`{path}` is gone")
        if path.stat().st_size < 16 * chunks + _CHECKSUM:
            return self._read(index, used)
        data = np.memmap(path, np.uint8, "r")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = self.chunk * row + _CHECKSUM
        table = data[-(16 * chunks + _CHECKSUM) : -_CHECKSUM].copy().view("<u8").reshape(chunks, 2)
        expected = np.arange(used, dtype="<u8") * np.uint64(size)
        if not (np.array_equal(table[:used, 0], expected) and (table[:used, 1] == size).all()):
            return self._read(index, used)
        inner = (math.prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(1, len(self.shape)))
        return np.ndarray((used, self.chunk, *self.shape[1:]), self.dtype, data, 0, (size, row, *inner))

    def _read(self, index: int, used: int) -> Any:
        out = np.zeros((used * self.chunk, *self.shape[1:]), self.dtype)
        first = index * self.rows
        values = read_rows(self.location, self.array, slice(first, min(first + self.rows, self.shape[0])))
        out[: len(values)] = values
        return out.reshape(used, self.chunk, *self.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # workers map the files themselves


def mapped(location: str, name: str, array: Any) -> MappedArray | None:
    """The array mapped into memory, if its files are local and hold plain values in order."""
    import sys

    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    codecs = array.metadata.codecs
    if "://" in location or array.shape[0] == 0 or len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return None
    inner = codecs[0].codecs
    plain = len(inner) == 2 and isinstance(inner[0], BytesCodec) and isinstance(inner[1], Crc32cCodec)
    if not plain or (sys.byteorder != "little" and array.dtype.itemsize > 1):
        return None
    return MappedArray(location, name, array)
