"""Fingerprints of data, so that a run does not go on with other data: names of samples, and a few samples."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch

SAMPLED = 8
"""How many samples are compared; they are spread over the length of the data."""
UNREAD = "-"
"""The checksum of a sample that cannot be read."""


def digest_of_names(names: Iterable[str]) -> bytes:
    """A checksum of the names of samples, in their order."""
    found = sha256()
    for name in names:
        found.update(f"\n{name}".encode(errors="surrogateescape"))
    return found.digest()


def digests_of_samples(dataset: Any, length: int) -> list[str]:
    """Checksums of a few samples; none, with a warning, if a sample is another one each time it is read.

    Samples that were reordered or replaced, and another transform, are noticed if one of these is among them. A sample
    that cannot be read is `UNREAD`. A dataset may have a method `sample_bytes(index)` with what its samples are made
    from; this is compared instead, if the sample can be read.
    """
    rows = sorted({i * (length - 1) // max(1, SAMPLED - 1) for i in range(SAMPLED)})
    found = []
    for row in rows:
        first, second = (_digest_of_row(dataset, row) for _ in range(2))
        if first != second:
            message = (
                f"sample {row} of the data is another one each time it is read (a random transform?), so the store "
                "depends on chance, and a later run cannot notice that the data has changed"
            )
            warnings.warn(message, stacklevel=4)
            return []
        found.append(first)
    return found


def same_data(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same data; a sample that could not be read once may be any.

    >>> same_data("names 1 - 3", "names 1 2 3"), same_data("names 1 2 3", "names 1 4 3")
    (True, False)
    """
    pairs = list(zip(one.split(), other.split(), strict=False))
    same_length = len(one.split()) == len(other.split())
    return same_length and all(a == b or UNREAD in (a, b) for a, b in pairs)


def _digest_of_row(dataset: Any, row: int) -> str:
    try:
        value = dataset[row]
        source = getattr(dataset, "sample_bytes", None)
        return digest_of_value(value if source is None else source(row)).hex()[:16]
    except Exception:  # decoders and the user's own code raise anything
        return UNREAD


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
