"""Fingerprints of data, so that a run does not go on with other data: names of samples, or values of a few of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch

SAMPLED = 8
"""How many samples of data without names are compared; they are spread over its length."""


def digest_of_names(names: Iterable[str]) -> bytes:
    """A checksum of the names of samples, in their order."""
    found = sha256()
    for name in names:
        found.update(f"\n{name}".encode(errors="surrogateescape"))
    return found.digest()


def digest_of_samples(dataset: Any, length: int) -> bytes:
    """A checksum of a few samples; empty, with a warning, if a sample is another one each time it is read.

    Samples that were reordered or replaced are noticed if one of these is among them. A sample that cannot be read
    counts as such.
    """
    rows = sorted({i * (length - 1) // max(1, SAMPLED - 1) for i in range(SAMPLED)})
    found = sha256()
    for row in rows:
        first, second = (_digest_of_row(dataset, row) for _ in range(2))
        if first != second:
            message = (
                f"sample {row} of the data is another one each time it is read (a random transform?), so the store "
                "depends on chance, and a later run cannot notice that the data has changed"
            )
            warnings.warn(message, stacklevel=4)
            return b""
        found.update(f"{row} ".encode() + first)
    return found.digest()


def _digest_of_row(dataset: Any, row: int) -> bytes:
    try:
        value = dataset[row]
    except Exception as error:  # decoders and the user's own code raise anything
        value = type(error).__name__
    return digest_of_value(value)


def digest_of_value(value: Any) -> bytes:
    """A checksum of a sample or a batch: tensors, arrays, images, numbers and texts, however they are nested."""
    found = sha256()
    _update(found, value)
    return found.digest()


def _update(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        found.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    elif isinstance(value, np.ndarray) and value.dtype != object:
        found.update(f"{value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found.update(f"{key}: ".encode())
            _update(found, item)
    elif isinstance(value, (tuple, list)):
        found.update(f"{len(value)} items ".encode())
        for item in value:
            _update(found, item)
    elif isinstance(value, (str, int, float, bool, np.generic)) or value is None:
        found.update(f"{value!r} ".encode(errors="surrogateescape"))
    elif isinstance(value, bytes):
        found.update(value)
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # an image of PIL
        found.update(f"{value.size} ".encode() + value.tobytes())
    else:
        found.update(type(value).__qualname__.encode())
