"""The samples of a probe: rows of a store, in memory if they fit, and the stratified split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch

from graphmodel.extraction.features import FeatureDataset

IN_MEMORY = 2 << 30
"""Bytes of features that are kept in memory; more are read batch by batch, in the order of the batches."""


class Samples:
    """Some rows of a store.

    Attributes:
        names: the features, and what they are called in the store.
        labels: the label of each sample, `(N,)`, on the CPU.
        rows: their numbers in the dataset.
    """

    def __init__(
        self,
        data: FeatureDataset,
        names: Mapping[str, str],
        rows: torch.Tensor,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Reads them, if they are few.

        Args:
            data: the store.
            names: the features that are read, and what they are called in the store.
            rows: numbers of the samples in the dataset.
            device: where batches go.
            dtype: the dtype of floating features; as stored if None.
        """
        assert data.labels is not None
        self.names, self.rows, self.device, self.dtype = dict(names), rows, device, dtype
        self.labels = data.labels[rows].long()
        self._data = self._only(data, names.values())
        self._memory: dict[str, torch.Tensor] | None = None
        if self.row_bytes * len(rows) <= IN_MEMORY:
            self._memory = self._read(rows)
            self._labels = self.labels.to(device)

    @property
    def row_bytes(self) -> int:
        """The size of the features of one sample."""
        if not len(self._data):
            return 0
        values, _ = self._data.take([0])
        return sum(value.numel() * max(value.element_size(), 4) for value in values.values())

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Some samples as one batch: the features by name, and the labels."""
        if self._memory is not None:
            here = positions.to(self.device)
            return {name: value[here] for name, value in self._memory.items()}, self._labels[here]
        return self._read(self.rows[positions]), self.labels[positions].to(self.device)

    def batches(self, size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """All samples in order."""
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def whole(self, name: str) -> torch.Tensor:
        """One feature of all samples as `(N, values)`."""
        if self._memory is not None:
            return self._memory[name].reshape(len(self), -1)
        stored = self.names[name]
        value = self._only(self._data, [stored]).take(self.rows)[0][stored]
        return self._ready(value).reshape(len(self), -1)

    def _read(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        values, _ = self._data.take(rows)
        return {name: self._ready(values[stored]) for name, stored in self.names.items()}

    def _ready(self, value: torch.Tensor) -> torch.Tensor:
        value = value.to(self.device)
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value

    @staticmethod
    def _only(data: FeatureDataset, names: Iterable[str]) -> FeatureDataset:
        """The same store with some of its outputs."""
        return FeatureDataset(data.store, [*dict.fromkeys(names)], storage_options=data.storage_options)


def stratified(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits samples so that each class is divided in the same proportion.

    Of each class `fraction` is held out, to the nearest whole number: if it has two samples or more, at least one of
    them, and not all.

    Example:
        >>> train, held = stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0)
        >>> len(train), len(held)
        (3, 3)

    Args:
        labels: class indices `(N,)`.
        fraction: between 0 and 1.
        seed: draws the samples.

    Returns:
        The numbers of the samples that stay and of those that are held out, each in order.
    """
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        of_class = (labels == label).nonzero().flatten()
        count = len(of_class)
        if count < 2:
            continue
        number = min(count - 1, max(1, math.floor(count * fraction + 0.5)))
        held[of_class[torch.randperm(count, generator=generator)[:number]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()
