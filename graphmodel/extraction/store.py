"""The store of features: a zarr 3 group on a disk or an object store that grows by whole commits."""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphmodel.diagnostics import CompileError, choices_help, fail, first_line
from graphmodel.extraction import layout as names
from graphmodel.extraction.layout import FEATURES, FORMAT, SAMPLES, Block, Column, Identity, Layout
from graphmodel.extraction.packages import need
from graphmodel.extraction.reading import damaged, has_file, local, read_rows, shards

if TYPE_CHECKING:
    import zarr

    from graphmodel.extraction.parts import Parts

VERSIONS = ("graphmodel", "torch", "torchvision", "timm", "zarr", "numpy")
_KEY = "graphmodel"
_BEGUN = {"format": FORMAT, "created": False}
"""What a store says of itself until all of its arrays are there."""
_PARTIAL = ".partial"
"""How zarr's temporary files end; a run that is killed leaves one."""


class Store:
    """A store that is open.

    Attributes:
        location: its path or URL.
        group: the zarr group.
        layout: its arrays.
    """

    def __init__(self, location: str, group: zarr.Group) -> None:
        self.location, self.group = location, group
        record: Any = group.attrs[_KEY]
        made = record["layout"]
        label = made["label"]
        self.layout = Layout(
            outputs={name: _column(item) for name, item in made["outputs"].items()},
            label=None if label is None else _column(label),
            rows=made["rows"],
            text_ids=made["text_ids"],
            paths=made["paths"],
        )

    @property
    def record(self) -> dict[str, Any]:
        """What the store says about itself: spec, checksums, transform, versions."""
        record: Any = self.group.attrs[_KEY]
        return dict(record)

    @property
    def is_complete(self) -> bool:
        """Whether a run has finished it."""
        return bool(self.record["complete"])

    @property
    def length(self) -> int:
        """The number of rows, extracted or not."""
        return int(self.array(SAMPLES, names.STATUS).shape[0])

    def array(self, group: str, name: str) -> Any:
        """An array of the store."""
        return self.group[f"{group}/{name}"]

    def status(self) -> Any:
        """The status of every row."""
        return self.array(SAMPLES, names.STATUS)[:]

    def missing(self, length: int) -> list[int]:
        """First rows of the commits that have not been written."""
        done = self.status()
        rows = self.layout.rows
        return [s for s in range(0, length, rows) if s >= len(done) or (done[s : s + rows] == names.MISSING).any()]

    def write(self, block: Block) -> None:
        """Commits rows; the status comes last, so that a run that is killed leaves them written or MISSING.

        Raises:
            CompileError: GM607 if the disk is full or cannot be written to.
        """
        import zarr

        try:
            with zarr.config.set({"array.write_empty_chunks": True}):  # a commit leaves a file, whatever its values
                self._write(block, slice(block.start, block.start + len(block.status)))
        except OSError as error:
            raise _cannot_write(self.location, error) from error

    def _write(self, block: Block, rows: slice) -> None:
        for name, values in block.columns.items():
            self.array(FEATURES, name)[rows] = values
        if self.layout.label is not None:
            self.array(SAMPLES, names.LABEL)[rows] = block.label
        ids = np.array(block.ids, dtype=object if self.layout.text_ids else np.int64)
        self.array(SAMPLES, names.SAMPLE_ID)[rows] = ids
        if self.layout.paths:
            self.array(SAMPLES, names.PATH)[rows] = np.array(block.paths, dtype=object)
        self.array(SAMPLES, names.STATUS)[rows] = block.status

    @property
    def parts(self) -> Parts:
        """The parts of blocks that are not full."""
        from graphmodel.extraction.parts import Parts

        return Parts(self.group.store_path, self.layout.text_ids)

    def save(self, part: Block) -> None:
        """Saves rows of a block that is not full.

        Raises:
            CompileError: GM607 if the disk is full or cannot be written to.
        """
        try:
            self.parts.write(part)
        except OSError as error:
            raise _cannot_write(self.location, error) from error

    def grow(self, length: int) -> None:
        """Makes room for a stream, whose length is not known in advance; the status comes last."""
        try:
            for array in (*self._arrays(FEATURES), *self._arrays(SAMPLES)):
                if array.shape[0] < length:
                    array.resize((length, *array.shape[1:]))
        except OSError as error:
            raise _cannot_write(self.location, error) from error

    def finish(self, complete: bool = True) -> None:
        """Marks the store as complete, and removes what killed runs have left."""
        try:
            if "://" not in self.location:
                for left in Path(self.location).rglob(f"*{_PARTIAL}"):
                    left.unlink(missing_ok=True)
            self.parts.clear()
            self.group.attrs[_KEY] = self.record | {"complete": complete}
        except OSError as error:
            raise _cannot_write(self.location, error) from error

    def verify(self, starts: Iterable[int]) -> None:
        """Reads rows back, which compares their checksums.

        Args:
            starts: first rows of commits.

        Raises:
            CompileError: GM608 if a file is missing or damaged.
        """
        length, rows = self.length, self.layout.rows
        for array in (*self._arrays(FEATURES), *self._arrays(SAMPLES)):
            if array.shape[0] != length:
                raise self._damaged(f"`{array.path}` has {array.shape[0]} rows and not {length}")
            for start in starts:
                if not has_file(array, start // rows):
                    raise self._damaged(f"rows {start} to {min(start + rows, length) - 1} of `{array.path}` are gone")
                values = read_rows(self.location, array, slice(start, min(start + rows, length)))
                if array.name.endswith(f"{SAMPLES}/{names.STATUS}") and (values == names.MISSING).any():
                    raise self._damaged(f"rows from {start} were never written")

    def _arrays(self, group: str) -> Iterator[Any]:
        """The arrays of a group, the status last."""
        inside: Any = self.group[group]
        found = dict(inside.arrays())
        yield from (found[name] for name in sorted(found, key=lambda name: (name == names.STATUS, name)))

    def sample_arrays(self) -> list[str]:
        """The paths of the arrays that say something about the samples."""
        inside: Any = self.group[SAMPLES]
        return [f"{SAMPLES}/{name}" for name, _ in inside.arrays()]

    def check_files(self, arrays: Iterable[str]) -> None:
        """Checks that no file of an array is gone, which zarr takes for rows of the fill value.

        Raises:
            CompileError: GM608.
        """
        rows, count = self.layout.rows, -(-self.length // self.layout.rows)
        for path in arrays:
            found = shards(self.location, self.group[path])
            gone = next((i for i in range(count) if i not in found), None)
            if gone is not None:
                last = min((gone + 1) * rows, self.length) - 1
                raise self._damaged(f"rows {gone * rows} to {last} of `{path}` are gone")

    def _damaged(self, why: str) -> CompileError:
        return damaged(self.location, why)


def _place(location: str, options: dict[str, Any] | None, write: bool) -> Any:
    """What zarr opens: a path, or a store of fsspec for a URL, since zarr 3.4 takes `memory://` for one of its own."""
    if "://" not in location:
        return location
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(location, storage_options=options, read_only=not write)


def open_store(location: str, *, write: bool = False, options: dict[str, Any] | None = None) -> Store | None:
    """The store at a place; None if there is nothing.

    Raises:
        CompileError: GM600 if zarr is missing, GM602 if something else is there.
    """
    need("zarr")
    import zarr
    from zarr.errors import GroupNotFoundError

    location = local(location)
    other = "choose a new directory" if write else "give what `graphmodel extract -o` wrote"
    _check_url(location)
    try:
        group = zarr.open_group(_place(location, options, write), mode="r+" if write else "r", zarr_format=3)
    except (FileNotFoundError, GroupNotFoundError):
        place = Path(location)
        if "://" not in location and place.exists() and (not place.is_dir() or any(_foreign(place))):
            message = f"`{location}` exists and is not a store of features"
            raise fail("GM602", message, help=other) from None
        return None
    except Exception as error:  # zarr raises many kinds of errors for what is not a group, and fsspec for services
        raise fail("GM602", f"`{location}` cannot be opened as a store of features: {first_line(error)}") from error
    record: Any = group.attrs.get(_KEY)
    if record == _BEGUN:
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        message = f"`{location}` is a zarr group that `graphmodel extract` did not write"
        if isinstance(record, dict) and isinstance(record.get("format"), int):
            message = f"`{location}` has the format {record['format']}, and this graphmodel reads {FORMAT}"
        raise fail("GM602", message, help=other)
    return Store(location, group)


def open_for_reading(location: str, *, options: dict[str, Any] | None = None) -> Store:
    """The finished store at a place.

    Raises:
        CompileError: GM600, GM602; GM608 if there is none, or if it is not complete.
    """
    store = open_store(location, options=options)
    if store is None:
        raise fail("GM608", f"there is no store of features at `{location}`", help="write one: `graphmodel extract`")
    if not store.is_complete:
        done = int((store.status() != names.MISSING).sum())
        message = f"the store `{location}` is not complete: {done} of {store.length} samples are written"
        raise fail("GM608", message, help="run the same `graphmodel extract` again; it goes on where it stopped")
    return store


def create_store(
    location: str,
    layout: Layout,
    identity: Identity,
    *,
    spec: str,
    length: int,
    digests: dict[str, dict[str, str]],
    classes: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Store:
    """Makes an empty store where `open_store` found none.

    Args:
        location: a path or a URL that fsspec knows.
        layout: its arrays.
        identity: what it is made from.
        spec: the spec as YAML.
        length: the number of rows; 0 for a stream.
        digests: for each output, checksums of the calls behind it and of their weights.
        classes: names of the classes.
        options: options of fsspec.

    Raises:
        CompileError: GM607 if it cannot be written.
    """
    need("zarr")
    import zarr

    location = local(location)
    record = {
        "format": FORMAT,
        "complete": False,
        "layout": asdict(layout),
        **asdict(identity),
        "spec": spec,
        "digests": digests,
        "classes": classes,
        "versions": {"python": platform.python_version()} | {p: v for p in VERSIONS if (v := _version(p))},
    }
    try:
        group = zarr.create_group(
            _place(location, options, True),
            overwrite=True,
            zarr_format=3,
            attributes={_KEY: _BEGUN},
        )
        for name in (FEATURES, SAMPLES):
            group.require_group(name)
        for name, column in layout.outputs.items():
            codec = identity.compression
            _create(group, f"{FEATURES}/{name}", column, layout, length, codec, sharded=column.is_floating)
        if layout.label is not None:
            _create(group, f"{SAMPLES}/{names.LABEL}", layout.label, layout, length, "", sharded=False)
        plain = {names.SAMPLE_ID: "str" if layout.text_ids else "int64"} | ({names.PATH: "str"} if layout.paths else {})
        for name, dtype in {**plain, names.STATUS: "uint8"}.items():
            _create(group, f"{SAMPLES}/{name}", Column((), dtype), layout, length, "", sharded=False)
        group.attrs[_KEY] = json.loads(json.dumps(record))
    except OSError as error:
        raise _cannot_write(location, error) from error
    return Store(location, group)


def check_identity(store: Store, identity: Identity) -> None:
    """Refuses to add to a store that was made from something else.

    Raises:
        CompileError: GM602.
    """
    different = identity.differences(store.record)
    if different:
        listed = ", ".join(f"`{name}`" for name in different)
        message = f"the store `{store.location}` was made with another {listed}, so nothing was added to it"
        raise fail("GM602", message, help="extract to a new directory, or go back to what the store was made with")


def _create(
    group: zarr.Group, path: str, column: Column, layout: Layout, length: int, compression: str, *, sharded: bool = True
) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    name = path.rpartition("/")[2]
    whole = (layout.rows, *column.shape)
    is_text = column.dtype == "str"
    group.create_array(
        path,
        shape=(length, *column.shape),
        dtype=str if is_text else column.stored,
        chunks=(layout.chunk(column), *column.shape) if sharded else whole,
        shards=whole if sharded else None,
        compressors=[*([ZstdCodec(level=3)] if compression == "zstd" else []), Crc32cCodec()],
        filters=None if not is_text else "auto",
        fill_value=column.fill,
        attributes={"dtype": column.dtype},
        dimension_names=["sample", *(f"{name}_{i}" for i in range(1, len(column.shape) + 1))],
    )


def _foreign(place: Path) -> Iterator[Path]:
    return (entry for entry in place.iterdir() if not entry.name.endswith(_PARTIAL))


def _check_url(location: str) -> None:
    scheme, separator, _ = location.partition("://")
    if not separator:
        return
    need("fsspec", why="URLs")
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise fail("GM600", f"`{scheme}://` needs a package", help="pip install 'graphmodel[extract]'") from None
    except ValueError:
        known = ["s3", "gs", "az", "file", "memory"]
        message = f"`{scheme}` is not a valid protocol of a URL"
        raise fail("GM607", message, help=choices_help(scheme, known, "protocols")) from None


def _cannot_write(location: str, error: OSError) -> CompileError:
    reason = error.strerror or first_line(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    help = "free some space and run the same command again; it goes on where it stopped" if full else ""
    return fail("GM607", f"cannot write to `{location}`: {reason}", help=help)


def _column(item: dict[str, Any]) -> Column:
    return Column(tuple(item["shape"]), item["dtype"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
