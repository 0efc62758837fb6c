"""Reads from a store that may have lost something: rows whose checksums do not match are one clear error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import CompileError, fail, first_line


def damaged(location: str, why: str) -> CompileError:
    """The error for a store that has lost something: GM608."""
    message = f"the store `{location}` is damaged: {why}"
    return fail("GM608", message, help="delete it and extract again, or copy it again from where it is intact")


def read_rows(location: str, array: Any, rows: Any) -> Any:
    """Rows of an array.

    Args:
        location: the store.
        array: a zarr array.
        rows: a slice, or numbers.

    Raises:
        CompileError: GM608 if a checksum does not match.
    """
    try:
        return array[rows] if isinstance(rows, slice) else array.oindex[rows]
    except Exception as error:  # codecs raise many kinds of errors
        at = f"row {rows.start}" if isinstance(rows, slice) else f"rows {rows.min()} to {rows.max()}"
        raise damaged(location, f"`{array.path}` cannot be read at {at}: {first_line(error)}") from error


def has_file(array: Any, index: int) -> bool:
    """Whether a shard has a file with something in it; zarr takes an empty one for rows of the fill value."""
    from zarr.core.sync import sync

    place = array.store_path / "/".join(["c", str(index), *("0" for _ in array.shape[1:])])
    return bool(sync(place.exists())) and sync(place.store.getsize(place.path)) > 0


def shards(location: str, array: Any) -> set[int]:
    """The numbers of the shards that have files; empty files on a local disk do not count."""
    from zarr.core.sync import sync

    if "://" not in location:
        tail = ["0"] * (len(array.shape) - 1)
        files = ((entry.name, Path(entry.path, *tail)) for entry in _entries(Path(location, array.path, "c")))
        return {int(name) for name, file in files if name.isdigit() and file.is_file() and file.stat().st_size}
    prefix = f"{array.store_path.path}/c/".lstrip("/")
    return {int(key.removeprefix(prefix).partition("/")[0]) for key in sync(listed(array.store_path.store, prefix))}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


async def listed(store: Any, prefix: str) -> list[str]:
    """The keys of a store below a prefix."""
    return [key async for key in store.list_prefix(prefix)]


def local(location: str) -> str:
    """The path of a `file://` URL; other locations as they are."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(location).path) if location.startswith("file://") else location
