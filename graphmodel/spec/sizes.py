"""Sizes in bytes as text, such as `4GiB`: read strictly, written with binary units."""

from __future__ import annotations

import math
import re

UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""Bytes by unit: powers of a thousand, and of 1024 with an `i`."""

_FORM = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?([A-Za-z]+)", re.ASCII)


def parse_size(text: str) -> int:
    """The number of bytes of a size with a unit.

    >>> parse_size("4GiB"), parse_size("1.5 MB")
    (4294967296, 1500000)

    Raises:
        ValueError: if it is not a positive number with one of `UNITS`.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"`{text}` is not a valid size; help: write a number and a unit, such as 4GiB or 500MiB")
    number, unit = found.groups()
    if unit not in UNITS:
        near = next((known for known in UNITS if known.lower() == unit.lower()), None)
        guess = f"did you mean {near}? " if near else ""
        raise ValueError(f"`{unit}` is not a valid unit; help: {guess}units: {', '.join(UNITS)}")
    size = int(float(number) * UNITS[unit]) if "." in number else int(number) * UNITS[unit]
    if size <= 0:
        raise ValueError(f"`{text}` is not a valid size; help: it must be positive")
    return size


def size_text(size: int) -> str:
    """A size with a binary unit and two decimals, rounded up, so that reading it back gives no less.

    >>> size_text(4 * 2**30), size_text(1_500_000_000), size_text(1000)
    ('4GiB', '1.4GiB', '1000B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{math.ceil(size * 100 / UNITS[unit]) / 100:g}{unit}"
    return f"{size}B"
