"""How a store of features lies in zarr: names, chunks, dtypes, and what must not differ between two runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from graphmodel.extraction.fingerprints import same_data

FORMAT = 1
FEATURES, SAMPLES = "features", "samples"
STATUS, LABEL, SAMPLE_ID, PATH = "status", "label", "id", "path"
MISSING, EXTRACTED, UNREADABLE = 0, 1, 2
"""Values of `samples/status`; a commit writes its chunk last, so what is not MISSING is complete."""

StoredDtype = Literal["float32", "float16", "bfloat16"]
DTYPES = get_args(StoredDtype)
Compression = Literal["zstd"]

COMMIT_BYTES = 64 << 20
"""About how many bytes of features a commit writes."""
MOST_ROWS = 4096
CHUNK_BYTES = 1 << 20
"""About how many bytes a chunk has, which is what zarr reads at once."""
PART_BYTES = CHUNK_BYTES // 2
"""From how many bytes on the rows of a block that is not full are saved: one part may be in the making while the one
before it is being written, so that a run which is killed loses at most a chunk."""


@dataclass(frozen=True)
class Column:
    """One array of features or labels.

    Attributes:
        shape: of a row.
        dtype: as torch calls it; zarr has no `bfloat16`, so such an array holds its bits as `uint16`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def stored(self) -> str:
        """The dtype in zarr."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype

    @property
    def fill(self) -> Any:
        """What zarr takes a missing chunk for: not a number, if the dtype has that.

        In a shard, zarr leaves out chunks that hold nothing but this.
        """
        return {"float16": math.nan, "float32": math.nan, "float64": math.nan, "bfloat16": 0xFFFF, "str": ""}.get(
            self.dtype, 0
        )

    @property
    def is_floating(self) -> bool:
        """Whether it holds floating numbers."""
        return "float" in self.dtype

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        sizes = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
        return math.prod(self.shape) * sizes.get(self.dtype, 1)


@dataclass(frozen=True)
class Layout:
    """The arrays of a store.

    Attributes:
        outputs: the outputs of the module.
        label: the labels, if the data has any.
        rows: the number of rows that are committed together: a shard of each array.
        text_ids: whether the data names its samples by text, or by numbers.
        paths: whether the data has paths.
    """

    outputs: dict[str, Column]
    label: Column | None
    rows: int
    text_ids: bool = False
    paths: bool = False

    @property
    def row_bytes(self) -> int:
        """The size of a row of all outputs."""
        return sum(column.row_bytes for column in self.outputs.values())

    def chunk(self, column: Column) -> int:
        """Rows of a chunk, of which a shard holds several."""
        chunk = self.rows
        while chunk % 2 == 0 and chunk * column.row_bytes > CHUNK_BYTES:
            chunk //= 2
        return chunk


@dataclass(frozen=True)
class Identity:
    """What a store was made from; a run that differs in any of it must not add to the store.

    Attributes:
        model: a SHA-256 of the graph and the parameters of its trunks and heads.
        weights: a SHA-256 of all parameters and buffers.
        transform: what happens to an image before the module.
        data: a SHA-256 of the names of the samples and of their number, and checksums of a few of them.
        dtype: the dtype of floating features; empty for the module's own.
        compression: the codec, or empty.
    """

    model: str
    weights: str
    transform: str
    data: str
    dtype: str = ""
    compression: str = ""

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """Names of what differs from what a store says of itself."""
        said = {"model": "spec"}
        return [said.get(name, name) for name, value in asdict(self).items() if not _same(name, value, stored)]


def _same(name: str, value: str, stored: dict[str, Any]) -> bool:
    return same_data(value, str(stored.get(name))) if name == "data" else bool(stored.get(name) == value)


@dataclass
class Block:
    """Consecutive rows that are committed together.

    Attributes:
        start: the first row.
        columns: rows of each output, as numpy arrays in the stored dtype.
        status: EXTRACTED or UNREADABLE for each row.
        label: their labels.
        ids: their ids.
        paths: their paths.
    """

    start: int
    columns: dict[str, Any]
    status: Any
    label: Any = None
    ids: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def rows_of_commit(columns: dict[str, Column], asked: int | None) -> int:
    """How many rows are committed together: a power of two, so that chunks and usual batch sizes divide it."""
    if asked is not None:
        return asked
    row = max(1, sum(column.row_bytes for column in columns.values()))
    return int(min(MOST_ROWS, max(16, 2 ** int(math.log2(max(1, COMMIT_BYTES // row))))))
