"""Draws accuracies as bars: in a file, and in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from graphmodel.profiling.shapes import BAR, FAINT, Rect, Text, to_png, to_svg

if TYPE_CHECKING:
    from graphmodel.probing.results import ProbeReport

_ROW, _BARS, _MARGIN, _TOP = 22, 420, 16, 66
_EIGHTHS = " ▏▎▍▌▋▊▉"


def accuracy_chart(report: ProbeReport, format: Literal["svg", "png"]) -> str | bytes:
    """The rows of a report as bars from 0 to 100 %.

    Args:
        report: the report.
        format: `svg` gives text, `png` bytes.
    """
    longest = max(len(result.name) for result in report.results)
    labels = longest * 7 + _MARGIN
    height = _TOP + len(report.results) * _ROW + _MARGIN
    shapes = list(_shapes(report, labels))
    draw = to_svg if format == "svg" else to_png
    return draw(shapes, labels + _BARS + 90, height)


def _shapes(report: ProbeReport, labels: float) -> Iterator[Rect | Text]:
    yield Text(_MARGIN, 24, f"{report.model}: {report.method}", size=15)
    said = f"accuracy on {report.test_samples} samples, {report.classes} classes"
    yield Text(_MARGIN, 46, said, FAINT)
    for i, result in enumerate(report.results):
        y, left = _TOP + i * _ROW, labels + 12
        yield Text(labels, y + 14, result.name, end=True)
        length = result.accuracy * _BARS
        if length > 0:
            yield Rect(left, y + 3, length, _ROW - 8, BAR)
        yield Text(left + length + 5, y + 14, percent(result.accuracy), FAINT, 11)


def percent(fraction: float | None) -> str:
    """A fraction for a table or chart; empty if there is none.

    >>> percent(0.93456), percent(None)
    ('93.5 %', '')
    """
    return "" if fraction is None else f"{fraction * 100:.1f} %"


def bar(fraction: float, width: int = 24) -> str:
    """A bar of block characters.

    >>> bar(0.5, 8), bar(0.55, 8)
    ('████', '████▍')
    """
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
