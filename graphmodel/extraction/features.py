"""Reads a store of features: a map-style dataset, batches without a DataLoader, and tensors in memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from graphmodel.diagnostics import choices_help, fail
from graphmodel.extraction.layout import EXTRACTED, FEATURES, LABEL, PATH, SAMPLE_ID, SAMPLES
from graphmodel.extraction.mapped import MappedArray, mapped
from graphmodel.extraction.reading import read_rows
from graphmodel.extraction.store import open_for_reading
from graphmodel.lower.slicing import names_in

Sample = tuple[dict[str, torch.Tensor], torch.Tensor]


class FeatureDataset(Dataset[Sample]):
    """The features that `extract` stored, as a map-style dataset.

    A sample is `(features, label)`: a dict by output name, and the label, which is the row's number if the data has no
    labels. Samples that could not be read are left out; `rows` says which row of the store each sample is. Files of a
    local, uncompressed store are mapped into memory.

    Example:
        >>> import graphmodel, tempfile, torch
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "freeze": True}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 3]}}}}, seed=0)
        >>> features, heads = graphmodel.split_frozen(model)
        >>> images = torch.utils.data.TensorDataset(torch.randn(6, 3, 32, 32), torch.arange(6) % 3)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = graphmodel.extract(features, images, place)
        ...     data = graphmodel.FeatureDataset(place)
        ...     for values, labels in data.batches(4):
        ...         print(heads(**values)["label"].shape, labels)
        torch.Size([4, 3]) tensor([0, 1, 2, 0])
        torch.Size([2, 3]) tensor([1, 2])

    Args:
        store: what `extract` wrote, as a path or a URL.
        outputs: names of the outputs to read; all if None.
        dtype: the dtype of floating features; as stored if None.
        storage_options: options of fsspec.

    Attributes:
        outputs: names of the outputs.
        record: what the store says about itself: spec, checksums, transform, versions.
        classes: names of the classes, if the data has any.
        rows: the row of the store of each sample.
        labels: the label of each sample; None if there are none.

    Raises:
        CompileError: GM600 if zarr is missing, GM608 if the store is not there, not complete or damaged, GM502 if an
            output is unknown.
    """

    def __init__(
        self,
        store: str | Path,
        outputs: Sequence[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        opened = open_for_reading(str(store), options=storage_options)
        known = opened.layout.outputs
        names_in("outputs", outputs)
        self.outputs = list(known) if outputs is None else list(outputs)
        for name in self.outputs:
            if name not in known:
                message = f"the store `{store}` has no output `{name}`"
                raise fail("GM502", message, help=choices_help(name, list(known), "outputs"))
        opened.check_files([*(f"{FEATURES}/{name}" for name in self.outputs), *opened.sample_arrays()])
        self.store, self.dtype, self.storage_options = str(store), dtype, storage_options
        self.record = opened.record
        self.classes: list[str] | None = self.record["classes"]
        self.rows = torch.from_numpy(np.flatnonzero(opened.status() == EXTRACTED))
        self._columns = {name: known[name] for name in self.outputs}
        self._arrays = {name: _reader(opened.location, name, opened.array(FEATURES, name)) for name in self.outputs}
        samples: Any = opened.group[SAMPLES]
        self._samples: dict[str, Any] = {key: samples[key] for key in (SAMPLE_ID, PATH) if key in samples}
        self.labels: torch.Tensor | None = None
        if opened.layout.label is not None:
            self.labels = torch.from_numpy(opened.array(SAMPLES, LABEL)[:])[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def shape_of(self, output: str) -> tuple[int, ...]:
        """The shape of one sample of an output."""
        return self._columns[output].shape

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        values, labels = self.take([index % len(self)])
        return {name: value[0] for name, value in values.items()}, labels[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        values, labels = self.take(indices)
        rows = zip(*(value.unbind() for value in values.values()), strict=True)
        return [(dict(zip(values, row, strict=True)), label) for row, label in zip(rows, labels.unbind(), strict=True)]

    def take(self, indices: Sequence[int] | torch.Tensor) -> Sample:
        """Several samples as one batch.

        Args:
            indices: their numbers, from 0 to `len(self) - 1`, or a mask with a bool for each sample.

        Returns:
            A tensor `(len(indices), ...)` for each output, and the labels.
        """
        chosen = torch.as_tensor(indices)
        if chosen.dtype == torch.bool:
            if chosen.shape != self.rows.shape:
                raise IndexError(f"a mask of {tuple(chosen.shape)} for {len(self)} samples")
            chosen = chosen.nonzero().flatten()
        if chosen.is_floating_point() and len(chosen):
            raise TypeError("samples are numbered by whole numbers")
        chosen = chosen.to(torch.int64)
        rows = self.rows[chosen]
        values = {name: self._read(name, rows.numpy()) for name in self.outputs}
        return values, rows if self.labels is None else self.labels[chosen]

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Iterator[Sample]:
        """All samples in batches, without the cost of a DataLoader.

        Args:
            batch_size: samples in a batch.
            shuffle: whether their order is random.
            generator: draws the order.
            drop_last: whether a last, smaller batch is left out.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, and a batch has at least one sample")
        order = torch.randperm(len(self), generator=generator) if shuffle else torch.arange(len(self))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            if len(part) == batch_size or not drop_last:
                yield self.take(part)

    def tensors(self, device: str | torch.device | None = None) -> Sample:
        """All samples as tensors in memory.

        Args:
            device: where to; the CPU if None.
        """
        values, labels = self.take(torch.arange(len(self)))
        return {name: value.to(device) for name, value in values.items()}, labels.to(device)

    def ids(self) -> list[Any]:
        """The id of each sample: the data's own, or its number in the data."""
        return list(self._samples[SAMPLE_ID][:][self.rows.numpy()].tolist())

    def paths(self) -> list[str] | None:
        """The path of each sample in the folder; None if the data has no paths."""
        return list(self._samples[PATH][:][self.rows.numpy()].tolist()) if PATH in self._samples else None

    def _read(self, name: str, rows: Any) -> torch.Tensor:
        column, array = self._columns[name], self._arrays[name]
        out = np.empty((len(rows), *column.shape), column.stored)
        if isinstance(array, MappedArray):
            array.take(rows, out)
        elif len(rows):
            out = read_rows(self.store, array, rows)
        value = torch.from_numpy(out)
        if column.dtype == "bfloat16":
            value = value.view(torch.bfloat16)
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value


def _reader(location: str, name: str, array: Any) -> Any:
    found = mapped(location, f"{FEATURES}/{name}", array)
    return array if found is None else found
