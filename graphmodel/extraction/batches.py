"""Batches for the module, whatever the data is: a folder, tar shards, a dataset, a DataLoader, or a stream."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from graphmodel.diagnostics import fail, first_line
from graphmodel.extraction.fingerprints import digest_of_names, digest_of_value, digests_of_samples
from graphmodel.extraction.loading import Collate, Failure, Guarded, Plan

_LABELS = ("label", "labels", "target", "targets")
_IDS = ("id", "ids", "__key__")
_PATHS = ("path", "paths")


@dataclass
class Batch:
    """Samples that belong to consecutive rows of the store.

    Attributes:
        rows: the row of each readable sample.
        inputs: the module's arguments by name.
        label: the labels.
        ids: the ids, if the data has any.
        paths: the paths, if the data has any.
        failures: rows that cannot be read, and why.
        names: the paths of these rows, if the data has any.
    """

    rows: list[int]
    inputs: dict[str, Any] = field(default_factory=dict)
    label: torch.Tensor | None = None
    ids: list[Any] | None = None
    paths: list[str] | None = None
    failures: list[tuple[int, str]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def repeated(self, times: int) -> Batch:
        """The inputs of a single sample, several times."""

        def repeat(value: Any) -> Any:
            return [repeat(v) for v in value] if isinstance(value, (tuple, list)) else torch.cat([value] * times)

        inputs = {name: repeat(value) for name, value in self.inputs.items()}
        return replace(self, rows=self.rows * times, inputs=inputs)


@dataclass
class Source:
    """Data whose samples have numbers.

    Attributes:
        dataset: the samples.
        length: their number; None for a stream.
        names: the module's inputs.
        loader: how they are loaded, as arguments of DataLoader.
        batch_size: samples in a batch.
        classes: names of the classes.
        transform: what happens to an image, in words.
    """

    dataset: Any
    length: int | None
    names: tuple[str, ...]
    loader: dict[str, Any]
    batch_size: int
    classes: list[str] | None = None
    transform: str = ""

    def fingerprint(self) -> str:
        """Checksums of the samples: of their number and all names, and of a few samples; of a stream's first batch."""
        if self.length is None:
            first = self.first_of_stream()
            return f"stream {digest_of_value(first).hex()}"
        found = sha256(str(self.length).encode())
        inner = self.dataset
        while isinstance(inner, Subset):
            found.update(f"\n{[int(i) for i in inner.indices]}".encode())
            inner = inner.dataset
        if sample_path(self.dataset, 0) is not None:
            found.update(digest_of_names(str(sample_path(self.dataset, i)) for i in range(self.length)))
        return " ".join([found.hexdigest(), *digests_of_samples(self.dataset, self.length)])

    def first_of_stream(self) -> Any:
        """The first batch of a stream, which still gives it.

        Raises:
            CompileError: GM601 if there is none.
        """
        stream = iter(self.dataset)
        raw = next(stream, None)
        if raw is None:
            raise fail("GM601", "the data has no samples")
        self.dataset = self.dataset if stream is not self.dataset else chain([raw], stream)
        return raw

    def sample(self) -> Batch | None:
        """A batch of the first sample that can be read; None if none of the first hundred can."""
        if self.length is None:
            raw = self.first_of_stream()
            batch = read_batch(raw, self.names, [])
            batch.rows = list(range(count_of(batch.inputs)))
            return batch
        one_by_one = replace(self, batch_size=1, loader={"collate_fn": self.loader.get("collate_fn")})
        return next((b for b in islice(one_by_one.batches([0], self.length), 100) if b.rows), None)

    def why_unread(self) -> str:
        """Why the first sample cannot be read, as the end of a sentence."""
        try:
            self.dataset[0]
        except Exception as error:  # decoders and the user's own code raise anything
            return f"; of the first one: {type(error).__name__}: {first_line(error)}"
        return ""

    def batches(self, starts: Sequence[int], rows: int, begun: Mapping[int, int] | None = None) -> Iterator[Batch]:
        """The batches of some commits, in order; none crosses the border of a commit.

        Args:
            starts: first rows.
            rows: the number of rows of a commit.
            begun: the first row that is missing, by the first row of a commit of which some are there.
        """
        length = self.length or 0
        plan = Plan(starts, rows, length, self.batch_size, begun or {})
        collate = Collate(self.loader.get("collate_fn") or default_collate)
        settings = self.loader | {"collate_fn": collate, "batch_sampler": plan}
        paths = sample_path(self.dataset, 0) is not None if length else False
        for rows_read, raw, failures in DataLoader(Guarded(self.dataset), **settings):
            if isinstance(raw, Failure):
                message = f"the samples {rows_read[0]} to {rows_read[-1]} cannot be made into a batch: {raw.reason}"
                help = "give samples of one shape, or a DataLoader with a `collate_fn`; batches come from a generator"
                raise fail("GM603", message, help=help)
            batch = read_batch(raw, self.names, rows_read) if rows_read else Batch([])
            batch.failures = failures
            if paths:
                batch.names = {row: str(sample_path(self.dataset, row)) for row, _ in failures}
            if paths and batch.paths is None:
                batch.paths = [str(sample_path(self.dataset, row)) for row in batch.rows]
            yield batch

    def stream(self, skip: int) -> Iterator[Batch]:
        """The batches of a stream after the rows that are stored already.

        Raises:
            CompileError: GM602 if it has fewer.
        """
        row = 0
        for raw in self.dataset:
            batch = read_batch(raw, self.names, [])
            count = count_of(batch.inputs)
            batch.rows = list(range(row, row + count))
            row += count
            if batch.rows and batch.rows[0] >= skip:
                yield batch
            elif row > skip:
                yield _tail(batch, skip - batch.rows[0])
        if row < skip:
            message = f"the data ends after {row} samples, and the store has {skip} of an earlier run"
            raise fail("GM602", message, help="give the same data again, or extract to a new directory")


def source_of(data: Any, names: Sequence[str], *, batch_size: int | None, num_workers: int | None) -> Source:
    """The source for a dataset, a DataLoader, or an iterable of batches.

    Args:
        data: the data.
        names: the module's inputs.
        batch_size: samples in a batch; a DataLoader's own, or 64, if None.
        num_workers: processes that load; a DataLoader's own, or 0, if None.

    Raises:
        CompileError: GM603 if a DataLoader draws its samples in an order of its own.
    """
    loader: dict[str, Any] = {"num_workers": num_workers or 0}
    size = batch_size or 64
    if isinstance(data, DataLoader):
        size = batch_size or data.batch_size or size
        is_stream = isinstance(data.dataset, IterableDataset)
        if not is_stream:
            _check_order(data)
        if is_stream or (data.batch_size is None and data.batch_sampler is None):  # its items are batches
            return Source(data, None, tuple(names), {}, size)
        workers = data.num_workers if num_workers is None else num_workers
        loader = {
            "num_workers": workers,
            "collate_fn": data.collate_fn,
            "pin_memory": data.pin_memory,
            "worker_init_fn": data.worker_init_fn,
        }
        if workers:
            loader |= {
                "timeout": data.timeout,
                "prefetch_factor": data.prefetch_factor or 2,
                "multiprocessing_context": data.multiprocessing_context,
            }
        data = data.dataset
    elif isinstance(data, IterableDataset):
        return Source(DataLoader(data, batch_size=size, **loader), None, tuple(names), {}, size)
    if isinstance(data, (Dataset, Sequence)) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        inner = data
        while isinstance(inner, Subset):
            inner = inner.dataset
        classes = getattr(inner, "classes", None)
        transform = getattr(inner, "transform", None)
        return Source(
            data,
            len(data),
            tuple(names),
            loader,
            size,
            classes=[in_unicode(str(c)) for c in classes] if isinstance(classes, (list, tuple)) else None,
            transform="" if transform is None else _described(transform),
        )
    if isinstance(data, Iterable):
        return Source(data, None, tuple(names), {}, size)
    raise fail("GM603", f"`{type(data).__name__}` is not data", help="give a folder, a dataset or a DataLoader")


def _described(transform: Any) -> str:
    """A transform in words, without the addresses of objects that have no description of their own."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))


def _check_order(loader: DataLoader[Any]) -> None:
    sampler = loader.sampler
    shuffles = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    unbatched = loader.batch_sampler is None
    plain = unbatched or type(loader.batch_sampler) is BatchSampler
    if plain and not (unbatched and shuffles) and (type(sampler) is SequentialSampler or shuffles):
        if shuffles:
            message = (
                "the DataLoader shuffles; the store has the samples in the order of its dataset, row i is sample i"
            )
            warnings.warn(message, stacklevel=4)
        return
    name = type(sampler if plain else loader.batch_sampler).__name__
    message = f"the DataLoader chooses its samples with `{name}`, and a store has every sample of the dataset once"
    raise fail("GM603", message, help="pass the dataset, or `torch.utils.data.Subset(dataset, indices)` for a part")


def read_batch(raw: Any, names: Sequence[str], rows: list[int]) -> Batch:
    """What a batch holds: inputs, and labels, ids and paths if there are any.

    Args:
        raw: the tensor of the only input; `(input, ..., label)` in the order of the inputs; or a dict by name.
        names: the module's inputs.
        rows: their rows.

    Raises:
        CompileError: GM603 if it has none of these forms.
    """
    if isinstance(raw, Mapping):
        absent = [name for name in names if name not in raw]
        if absent:
            message = f"a batch has the keys {', '.join(map(str, raw))} and no input `{absent[0]}`"
            raise fail("GM603", message, help="name the keys of a sample after the inputs of the model")
        return Batch(
            rows,
            {name: raw[name] for name in names},
            _tensor(_first(raw, _LABELS)),
            _listed(_first(raw, _IDS)),
            _listed(_first(raw, _PATHS)),
        )
    if isinstance(raw, torch.Tensor) and len(names) == 1:
        return Batch(rows, {names[0]: raw})
    if isinstance(raw, (tuple, list)) and len(names) <= len(raw) <= len(names) + 1:
        label = raw[len(names)] if len(raw) > len(names) else None
        return Batch(rows, dict(zip(names, raw, strict=False)), _tensor(label))
    kind = f"{len(raw)} values" if isinstance(raw, (tuple, list)) else f"a `{type(raw).__name__}`"
    listed = ", ".join(names)
    raise fail("GM603", f"a batch is {kind}", help=f"a batch is a tuple ({listed}, label) or a dict with {listed}")


def _first(raw: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((raw[key] for key in keys if key in raw), None)


def _tensor(label: Any) -> torch.Tensor | None:
    if label is None:
        return None
    try:
        return torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        message = f"labels are numbers or tensors, not `{type(label).__name__}`"
        raise fail("GM603", message, help="give classes as numbers; leave out what is not a label") from None


def _listed(value: Any) -> list[Any] | None:
    if value is None:
        return None
    return value.tolist() if isinstance(value, torch.Tensor) else list(value)


def count_of(inputs: Mapping[str, Any]) -> int:
    """The number of samples in a batch."""
    value = next(iter(inputs.values()))
    return len(value[0]) if isinstance(value, (tuple, list)) else len(value)


def _tail(batch: Batch, drop: int) -> Batch:
    def cut(value: Any) -> Any:
        return [v[drop:] for v in value] if isinstance(value, (tuple, list)) else value[drop:]

    return Batch(
        batch.rows[drop:],
        {name: cut(value) for name, value in batch.inputs.items()},
        None if batch.label is None else batch.label[drop:],
        None if batch.ids is None else batch.ids[drop:],
        None if batch.paths is None else batch.paths[drop:],
    )


def sample_path(dataset: Any, row: int) -> str | None:
    """The path of a sample, relative to the folder, if the dataset knows it."""
    if isinstance(dataset, Subset):
        return sample_path(dataset.dataset, int(dataset.indices[row]))
    named = getattr(dataset, "sample_path", None)
    if named is not None:
        return in_unicode(str(named(row)))
    samples, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if not isinstance(samples, (list, tuple)) or not samples:
        return None
    path = samples[row][0] if isinstance(samples[row], (list, tuple)) else samples[row]
    if not isinstance(path, (str, Path)):
        return None
    return in_unicode(str(path).removeprefix(f"{root}{os.sep}") if root else str(path))


def in_unicode(name: str) -> str:
    """A name as text that can be stored: bytes of a file name that are not UTF-8 as `\\xff`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
