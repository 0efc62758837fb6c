"""Formats counts and sizes with units: `25.6 M` parameters, `4.09 GFLOPs`, `97.8 MB`."""

from __future__ import annotations


def count(number: int) -> str:
    """A count with three significant digits; thousand millions are billions, as parameters are usually given.

    >>> count(25_557_032), count(1_290_000_000), count(1000), count(999_999), count(7)
    ('25.6 M', '1.29 B', '1 k', '1 M', '7')
    """
    return _scaled(number, ("", "k", "M", "B", "T"))


def flops(number: int) -> str:
    """A number of floating-point operations.

    >>> flops(4_089_184_256), flops(12)
    ('4.09 GFLOPs', '12 FLOPs')
    """
    text = si(number)
    return f"{text}FLOPs" if text[-1].isalpha() else f"{text} FLOPs"


def si(number: int) -> str:
    """A number with an SI prefix, for a table whose header names the unit.

    >>> si(4_089_184_256)
    '4.09 G'
    """
    return _scaled(number, ("", "k", "M", "G", "T", "P", "E"))


def memory(size: int) -> str:
    """A size in bytes; the units are powers of 1024.

    >>> memory(102_500_000), memory(512)
    ('97.8 MB', '512 B')
    """
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _scaled(number: int, units: tuple[str, ...]) -> str:
    """Three significant digits, trailing zeros removed, and the unit of the power of a thousand."""
    for power in range(len(units) - 1, 0, -1):
        # What rounds up to the next unit is written in it: 999,999 is `1 M`, not `1000 k`.
        if number >= 1000**power * (1 if power == 1 else 0.9995):
            value = number / 1000**power
            text = f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {units[power]}"
    return str(number)
