"""Gathers outputs of batches into blocks of rows that are committed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch

from graphmodel.diagnostics import fail
from graphmodel.extraction.batches import Batch
from graphmodel.extraction.layout import EXTRACTED, MISSING, PART_BYTES, UNREADABLE, Block, Column
from graphmodel.extraction.store import Store

LISTED = 1000
"""The most unreadable samples that a report lists."""


class Filling:
    """Blocks in the making.

    Attributes:
        done: rows that have come.
        extracted: those of them that could be read.
        failures: names of unreadable samples, and why.
        restored: the parts of blocks that an earlier run has saved, by the first row of the block.
    """

    def __init__(
        self,
        store: Store,
        *,
        length: int | None,
        on_error: str,
        pinned: bool,
        restored: dict[int, list[Block]] | None = None,
    ) -> None:
        self.layout, self.on_error, self.pinned = store.layout, on_error, pinned
        self.length = length or 0
        self.done = self.extracted = 0
        self.failures: list[tuple[str, str]] = []
        self.restored = dict(restored or {})
        self._begin, self._end = time.monotonic(), 0.0
        self._start: int | None = None
        self._saved = self._filled = 0
        self._bad: dict[str, torch.Tensor] = {}

    @property
    def seconds(self) -> float:
        """Since the first batch was asked for, until the last block was written."""
        return (self._end or time.monotonic()) - self._begin

    def stop(self) -> None:
        """Everything is written."""
        self._end = time.monotonic()

    def add(self, batch: Batch, outputs: dict[str, torch.Tensor]) -> Iterator[Block]:
        """Takes a batch, and hands out the blocks that it fills; a batch of a stream may fill several.

        Raises:
            CompileError: GM603, GM604, GM605 or GM609 if what comes does not fit.
        """
        self._note(batch)
        columns = {name: self._cast(name, value) for name, value in outputs.items()}
        rows = self.layout.rows
        touched = sorted({row // rows * rows for row in (*batch.rows, *(row for row, _ in batch.failures))})
        for start in touched:
            if self._start is not None and start != self._start:
                yield self._finished()
            if self._start is None:
                self.open(start)
            here = [i for i, row in enumerate(batch.rows) if start <= row < start + rows]
            if here:
                self._copy(batch, columns, slice(here[0], here[-1] + 1), start)
            for row, _ in batch.failures:
                if start <= row < start + rows:
                    self._status[row - start] = UNREADABLE
                    if self._paths:
                        self._paths[row - start] = batch.names.get(row, "")
            last = max((*batch.rows, *(row for row, _ in batch.failures)))
            self._filled = min(last + 1 - start, len(self._status))
            if (self._status != MISSING).all():
                yield self._finished()

    def part(self) -> tuple[Block, Callable[[], None]] | None:
        """The rows of a block that is not full since its last part, if they are worth a file, and what to wait for."""
        if self._start is None or (self._filled - self._saved) * self.layout.row_bytes < PART_BYTES:
            return None
        rows, self._saved = slice(self._saved, self._filled), self._filled
        return self._block(rows), self._ready()

    def rest(self) -> Iterator[Block]:
        """The last block, which a stream may leave short."""
        if self._start is not None:
            yield self._finished()

    def _note(self, batch: Batch) -> None:
        self.extracted += len(batch.rows)
        self.done += len(batch.rows) + len(batch.failures)
        self.failures += [(batch.names.get(row, f"sample {row}"), why) for row, why in batch.failures]
        if batch.failures and self.on_error == "fail":
            name, reason = self.failures[-len(batch.failures)]
            more = f", nor can {len(batch.failures) - 1} more of its batch" if len(batch.failures) > 1 else ""
            message = f"`{name}` cannot be read{more}: {reason}"
            raise fail("GM605", message, help="repair it and run the same command again, or skip it")

    def _cast(self, name: str, value: torch.Tensor) -> torch.Tensor:
        column = self._column(name)
        if tuple(value.shape[1:]) != column.shape:
            message = f"the output `{name}` has rows of {tuple(value.shape[1:])}, and those before it of {column.shape}"
            raise fail("GM604", message, help="give all images one size")
        cast = value.to(getattr(torch, column.dtype))
        if column.is_floating and cast.dtype != value.dtype:
            bad = (cast.isinf() & value.isfinite()).any()
            self._bad[name] = self._bad[name] | bad if name in self._bad else bad
        return cast

    def _column(self, name: str) -> Column:
        if name not in self.layout.outputs:
            raise fail("GM604", f"the store has no output `{name}`")
        return self.layout.outputs[name]

    def open(self, start: int) -> None:
        """Begins a block, with the parts of it that are there."""
        rows = self.layout.rows
        count = min(rows, self.length - start) if self.length > start else rows
        self._start = start
        self._status = np.zeros(count, np.uint8)
        self._tensors = {
            name: torch.zeros((count, *column.shape), dtype=getattr(torch, column.dtype), pin_memory=self.pinned)
            for name, column in self.layout.outputs.items()
        }
        label = self.layout.label
        self._label = None if label is None else torch.zeros((count, *label.shape), dtype=getattr(torch, label.dtype))
        self._ids: list[Any] = ["" if self.layout.text_ids else start + i for i in range(count)]
        self._paths = [""] * count if self.layout.paths else []
        self._saved = self._filled = 0
        for part in self.restored.pop(start, ()):
            self._restore(part, start)

    def _restore(self, part: Block, start: int) -> None:
        rows = slice(part.start - start, part.start - start + len(part.status))
        for name, values in part.columns.items():
            as_numpy(self._tensors[name])[rows] = values
        if self._label is not None and part.label is not None:
            as_numpy(self._label)[rows] = part.label
        self._status[rows] = part.status
        self._ids[rows] = part.ids
        if self._paths:
            self._paths[rows] = part.paths
        self._saved = self._filled = rows.stop

    def _copy(self, batch: Batch, columns: dict[str, torch.Tensor], part: slice, start: int) -> None:
        rows = [row - start for row in batch.rows[part]]
        dense = rows[-1] - rows[0] + 1 == len(rows)
        where: Any = slice(rows[0], rows[-1] + 1) if dense else torch.tensor(rows)
        for name, value in columns.items():
            if dense:
                self._tensors[name][where].copy_(value[part], non_blocking=True)
            else:
                self._tensors[name][where] = value[part].cpu()
        self._status[where if dense else rows] = EXTRACTED
        if self._label is not None:
            if batch.label is None or tuple(batch.label.shape[1:]) != tuple(self._label.shape[1:]):
                raise fail("GM603", "some batches have labels and others have none, or of another shape")
            if not torch.can_cast(batch.label.dtype, self._label.dtype):
                dtypes = (str(t.dtype).removeprefix("torch.") for t in (batch.label, self._label))
                raise fail("GM603", "some labels are {} and those before them {}".format(*dtypes))
            self._label[where] = batch.label[part].cpu().to(self._label.dtype)
        elif batch.label is not None:
            raise fail("GM603", "some batches have labels, and the first sample has none")
        if self.layout.text_ids and batch.ids is None:
            raise fail("GM603", "some batches have no ids, and the first sample has one")
        kind = str if self.layout.text_ids else Integral
        if batch.ids is not None and not all(isinstance(each, kind) for each in batch.ids):
            raise fail("GM603", f"some ids are not {'text' if kind is str else 'whole numbers'}, as the first one is")
        for i, row in zip(range(part.start, part.stop), rows, strict=True):
            if batch.ids is not None:
                self._ids[row] = batch.ids[i]
            if self._paths and batch.paths is not None:
                self._paths[row] = batch.paths[i]

    def _finished(self) -> Block:
        self._ready()()
        count = len(self._status)
        while count and self._status[count - 1] == MISSING:  # the end of a stream
            count -= 1
        block = self._block(slice(0, count))
        self._start = None
        return block

    def _block(self, rows: slice) -> Block:
        assert self._start is not None
        return Block(
            self._start + rows.start,
            {name: as_numpy(tensor[rows]) for name, tensor in self._tensors.items()},
            self._status[rows],
            None if self._label is None else as_numpy(self._label[rows]),
            self._ids[rows],
            self._paths[rows],
        )

    def _ready(self) -> Callable[[], None]:
        """Waits for copies from the device, and checks the values that have come so far.

        Raises:
            CompileError: GM609.
        """
        event = torch.cuda.Event() if self.pinned else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()
        bad = dict(self._bad)

        def wait() -> None:
            if event is not None:
                event.synchronize()
            for name, found in bad.items():
                if bool(found):
                    dtype = self._column(name).dtype
                    message = f"the output `{name}` has values that {dtype} cannot hold"
                    help = "store it as bfloat16 or float32 (`--dtype`)" if dtype == "float16" else ""
                    raise fail("GM609", message, help=help or "leave `--dtype` out to store it as it is")

        return wait


def as_numpy(tensor: torch.Tensor) -> Any:
    """The values as zarr stores them."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
