"""Runs a module over data once and stores all of its outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphmodel.diagnostics import Collector, choices_help, fail
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.extraction.batches import Batch, Source, source_of
from graphmodel.extraction.digests import model_digest, output_digests, weights_digest
from graphmodel.extraction.filling import LISTED, Filling
from graphmodel.extraction.images import ImageDataset, images_at
from graphmodel.extraction.layout import (
    DTYPES,
    UNREADABLE,
    Block,
    Column,
    Compression,
    Identity,
    Layout,
    StoredDtype,
    rows_of_commit,
)
from graphmodel.extraction.packages import need
from graphmodel.extraction.ranks import Ranks, ranks
from graphmodel.extraction.store import Store, check_identity, create_store, open_store
from graphmodel.extraction.transforms import transforms_of
from graphmodel.extraction.writer import Writer
from graphmodel.graph.types import head_name
from graphmodel.lower.emit import ordered
from graphmodel.lower.module import CompiledModel, check_compiled
from graphmodel.lower.random_inputs import weights_of


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: samples that this process has stored in this run.
        total: samples that it will store; None for a stream.
        seconds: since the first batch was asked for.
    """

    done: int
    total: int | None
    seconds: float


@dataclass(frozen=True)
class ExtractReport:
    """What a run stored.

    Attributes:
        store: where.
        samples: rows of the store.
        extracted: samples that this run stored, over all processes.
        found: samples that earlier runs had stored.
        unreadable: samples that could not be read in this run, and why; at most 1000 are listed.
        skipped: the number of samples of the store that could not be read.
        outputs: the shape of a row of each output.
        transform: what happened to an image before the module; empty if the data did it.
        seconds: how long it took.
        images_per_second: samples of this run, by the time since the first batch was asked for.
    """

    store: str
    samples: int
    extracted: int
    found: int
    unreadable: list[tuple[str, str]]
    skipped: int
    outputs: dict[str, list[int]]
    transform: str
    seconds: float
    images_per_second: float


def extract(
    module: CompiledModel,
    data: Any,
    out: str | Path,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    dtype: StoredDtype | None = None,
    compression: Compression | None = None,
    rows: int | None = None,
    on_error: Literal["skip", "fail"] = "skip",
    verify: bool = True,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ExtractReport:
    """Runs a module over data once and stores all of its outputs in a zarr store.

    A run that is interrupted, even by `kill -9` or a full disk, goes on where it stopped when it is called again.
    Under `torchrun` each process writes its part of one store. Row i of the store is sample i of the data.

    Example:
        >>> import graphmodel, tempfile, torch
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "mapping": {"images": {"res4": None, "flatten": None}}}, seed=0)
        >>> data = torch.utils.data.TensorDataset(torch.randn(6, 3, 32, 32), torch.arange(6))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     report = graphmodel.extract(model, data, f"{place}/features", batch_size=4)
        ...     features, label = graphmodel.FeatureDataset(f"{place}/features")[5]
        >>> report.outputs, report.samples
        ({'res4': [256, 2, 2], 'flatten': [512]}, 6)
        >>> features["flatten"].shape, int(label)
        (torch.Size([512]), 5)

    Args:
        module: what `compile`, `split_frozen` or `optimize_for_inference` returned. It runs in eval mode on the device
            that it is on; neither its mode nor a tensor of it changes.
        data: a folder with one directory for each class; tar files in WebDataset's form (`shards-{000..009}.tar`); a
            dataset, whose samples are an image, `(image, label)`, or a dict with the inputs of the model and, if there
            are, `label`, `id` and `path`; a DataLoader of such a dataset; or an iterable of such batches, whose order
            must be the same each time. A shuffling DataLoader is read in the order of its dataset.
        out: a directory or a URL (`s3://bucket/features`).
        batch_size: samples in a batch; the DataLoader's own, or 64.
        num_workers: processes that load images; the DataLoader's own, or 0.
        dtype: the dtype of floating features; the module's own if None.
        compression: `zstd` or None.
        rows: samples that are committed together, in one shard; about 64 MiB of features if None. A kill loses less:
            parts of about half a chunk are saved while a shard is filled.
        on_error: whether a sample that cannot be read is skipped and listed, or fails the run.
        verify: whether to read back what was written and to compare checksums.
        storage_options: options of fsspec, such as `{"endpoint_url": …}`.
        progress: called after each batch.

    Returns:
        What was stored.

    Raises:
        CompileError: GM600 if a package is missing; GM601 if there is no data; GM602 if the store was made from another
            spec, other weights, data or transforms; GM603 if the data has the wrong form; GM604 if an output cannot be
            stored; GM605 if a sample cannot be read and `on_error` is `fail`, or if none can; GM607 if the store cannot
            be written; GM608 if it is damaged; GM609 if a value is too large for `dtype`.
    """
    start = time.monotonic()
    need("zarr")
    _check_choices(dtype, compression, on_error, rows=rows, batch_size=batch_size, num_workers=num_workers)
    check_compiled(module, "extract")
    graph = module.model_graph
    if isinstance(data, (str, Path)):
        data = ImageDataset(images_at(str(data)), transforms_of(graph))
    source = source_of(data, list(graph.inputs), batch_size=batch_size, num_workers=num_workers)
    if source.length == 0:
        raise fail("GM601", "the data has no samples")
    identity = Identity(
        model_digest(module),
        weights_digest(module),
        source.transform,
        source.fingerprint(),
        dtype or "",
        compression or "",
    )
    with ranks() as here, in_eval(module), torch.inference_mode():
        if source.length is None and here.world > 1:
            message = "a stream cannot be divided among processes, since its samples have no numbers"
            raise fail("GM603", message, help="give a dataset that has a length and takes indices, or run one process")
        run = _Run(module, source, str(out), identity, rows, on_error, storage_options, progress, here)
        store = run.open()
        found = int((store.status() != 0).sum())
        here.gather(None)  # before somebody writes
        run.fill(store)
        written = here.gather((run.filling.extracted, run.restored, run.filling.failures))
        if verify:
            store.verify(here.share(range(0, store.length, store.layout.rows)))
        if here.is_first:
            store.finish()
        here.gather(None)
    status = store.status()
    seconds = run.filling.seconds
    done = sum(number for number, _, _ in written)
    found += sum(number for _, number, _ in written)
    return ExtractReport(
        store=str(out),
        samples=store.length,
        extracted=done,
        found=found,
        unreadable=[item for _, _, failures in written for item in failures][:LISTED],
        skipped=int((status == UNREADABLE).sum()),
        outputs={name: list(column.shape) for name, column in store.layout.outputs.items()},
        transform=source.transform,
        seconds=round(time.monotonic() - start, 2),
        images_per_second=round(done / seconds, 1) if seconds > 0 else 0.0,
    )


@dataclass
class _Run:
    module: CompiledModel
    source: Source
    out: str
    identity: Identity
    rows: int | None
    on_error: str
    options: dict[str, Any] | None
    progress: Callable[[Progress], None] | None
    ranks: Ranks
    filling: Filling = field(init=False)
    restored: int = 0

    def open(self) -> Store:
        """The store, which the first process makes if there is none."""
        store = None
        if self.ranks.is_first:
            store = open_store(self.out, write=True, options=self.options)
            if store is None:
                store = self.create()
        self.ranks.gather(None)
        if store is None:
            store = open_store(self.out, write=True, options=self.options)
        if store is None:
            raise fail("GM607", f"`{self.out}` is not visible to process {self.ranks.rank}")
        check_identity(store, self.identity)
        return store

    def create(self) -> Store:
        """An empty store with the shapes that the first sample has."""
        first = self.source.sample()
        if first is None:
            message = f"none of the first samples can be read{self.source.why_unread()}"
            raise fail("GM605", message, help="check the folder or the dataset")
        if self.source.length is not None:
            first = first.repeated(_least_batch(self.module))
        outputs = named_outputs(self.module, first)
        columns = {name: Column(tuple(v.shape[1:]), self._dtype(v)) for name, v in outputs.items()}
        label = None if first.label is None else Column(tuple(first.label.shape[1:]), _name(first.label.dtype))
        layout = Layout(
            outputs=columns,
            label=label,
            rows=rows_of_commit(columns, self.rows),
            text_ids=bool(first.ids) and isinstance((first.ids or [0])[0], str),
            paths=first.paths is not None,
        )
        return create_store(
            self.out,
            layout,
            self.identity,
            spec=to_yaml(dump(self.module.model_graph.spec)),
            length=self.source.length or 0,
            digests=output_digests(self.module),
            classes=self.source.classes,
            options=self.options,
        )

    def _dtype(self, value: torch.Tensor) -> str:
        return self.identity.dtype if self.identity.dtype and value.is_floating_point() else _name(value.dtype)

    def fill(self, store: Store) -> None:
        """Computes and writes what is missing."""
        length, rows = self.source.length, store.layout.rows
        done = store.status()
        if length is None:
            starts = [] if store.is_complete else [int((done != 0).sum()) // rows * rows]
        else:
            starts = self.ranks.share(store.missing(length))
        restored = _restored(store, starts) if starts else {}
        begun = {start: start + sum(len(part.status) for part in parts) for start, parts in restored.items()}
        self.restored = sum(begun.values()) - sum(begun)
        pinned = weights_of(self.module).is_cuda
        self.filling = Filling(store, length=length, on_error=self.on_error, pinned=pinned, restored=restored)
        if not starts:
            return
        total = None
        if length is None:
            batches = self.source.stream(begun.get(starts[0], starts[0]))
            if starts[0] in restored:
                self.filling.open(starts[0])
        else:
            batches = self.source.batches(starts, rows, begun)
            total = sum(min(rows, length - s) for s in starts) - self.restored
        writer = Writer(store, grow=length is None)
        for start, parts in restored.items():
            writer.saved[start] = [(part.start, part.start + len(part.status)) for part in parts]
        with writer:
            for batch in batches:
                outputs = named_outputs(self.module, batch) if batch.rows else {}
                for block in self.filling.add(batch, outputs):
                    writer.write(block)
                if writer.is_idle and (part := self.filling.part()) is not None:
                    writer.save(*part)
                if self.progress is not None:
                    self.progress(Progress(self.filling.done, total, self.filling.seconds))
            for block in self.filling.rest():
                writer.write(block)
            writer.wait()
        self.filling.stop()


def _restored(store: Store, starts: list[int]) -> dict[int, list[Block]]:
    """The parts of blocks that an earlier run has saved, up to the first that is damaged."""
    from graphmodel.extraction.parts import chains

    found: dict[int, list[Block]] = {}
    for start, ranges in chains(store.parts.found(), starts, store.layout.rows).items():
        parts = [store.parts.read(*each) for each in ranges]
        intact = list(takewhile(lambda part: part is not None, parts))
        if intact:
            found[start] = [part for part in intact if part is not None]
    return found


def _least_batch(module: CompiledModel) -> int:
    """The fewest samples that every head accepts."""
    multiples: dict[str, int] = {}
    for component in module.model_graph.components.values():
        if component.kind == "head":
            name = head_name(component.name)
            multiples[name] = multiples.get(name, 1) * component.params.batch_multiple()
    return math.lcm(*multiples.values())


def named_outputs(module: CompiledModel, batch: Batch) -> dict[str, torch.Tensor]:
    """The outputs of the module by name, with a row for each sample.

    Raises:
        CompileError: GM604 if an output has another number of rows.
    """
    device = weights_of(module).device
    args = [_to(value, device) for value in batch.inputs.values()]
    result = module(*args)
    names = [key for output in ordered(module.model_graph) for key in output.parts]
    values = [result[n] for n in names] if isinstance(result, dict) else pytree.tree_leaves(result)
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != len(batch.rows):
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            message = f"the output `{name}` is {shape} for {len(batch.rows)} samples, and not a row for each of them"
            help = "leave it out (`--outputs`), or use inputs with one row for each sample"
            raise fail("GM604", message, help=help)
    return dict(zip(names, values, strict=True))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    return [_to(item, device) for item in value]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and each part of it in its own mode again afterwards."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


def _check_choices(dtype: str | None, compression: str | None, on_error: str, **numbers: Any) -> None:
    report = Collector()
    for what, value, choices in (
        ("dtype", dtype, DTYPES),
        ("compression", compression, ("zstd",)),
        ("on_error", on_error, ("skip", "fail")),
    ):
        if value is not None and value not in choices:
            report.error("GM606", f"`{value}` is not a valid {what}", help=choices_help(value, choices), path=what)
    for what, number in numbers.items():
        least = 0 if what == "num_workers" else 1
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
            message = f"`{what}` takes a whole number from {least} on, not {number!r}"
            report.error("GM606", message, path=what)
    report.raise_errors()
