"""Draws a profile as a bar chart: one row for each stage, one column of bars for each quantity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from graphmodel.diagnostics import fail
from graphmodel.profiling import units
from graphmodel.profiling.shapes import BAR, FAINT, SECOND, Rect, Text, to_png, to_svg
from graphmodel.profiling.stages import ModelProfile, StageCost

FORMATS = ("svg", "png")
_ROW, _COLUMN, _GAP, _MARGIN, _TOP = 22, 190, 24, 16, 66


def milliseconds(seconds: float | None) -> str:
    """A time for a table or chart; empty if there is none.

    >>> milliseconds(0.01234), milliseconds(None)
    ('12.3 ms', '')
    """
    if seconds is None:
        return ""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 99.95 else f"{value:.1f} ms" if value >= 9.995 else f"{value:.2f} ms"


def check_chart_format(suffix: str) -> str:
    """The format of a file's suffix.

    Raises:
        CompileError: GM556 if it is not one of `FORMATS`.
    """
    format = suffix.lower().removeprefix(".")
    if format not in FORMATS:
        raise fail("GM556", f"`{format}` is not a valid format of a chart", help=f"formats: {', '.join(FORMATS)}")
    return format


def draw_chart(found: ModelProfile, stages: Sequence[StageCost], format: str) -> str | bytes:
    """The chart as SVG text or PNG bytes.

    Args:
        found: the profile.
        stages: its stages, in the order of the rows.
        format: one of `FORMATS`.
    """
    labels = max((len(stage.name) for stage in stages), default=0) * 7 + _MARGIN
    columns = list(_columns(stages))
    width = labels + len(columns) * (_COLUMN + _GAP) + _MARGIN
    height = _TOP + len(stages) * _ROW + _MARGIN
    shapes = list(_shapes(found, stages, columns, labels))
    return to_svg(shapes, width, height) if format == "svg" else to_png(shapes, width, height)


_Column = tuple[str, Callable[[StageCost], tuple[float, float]], Callable[[StageCost], str]]


def _columns(stages: Sequence[StageCost]) -> Iterator[_Column]:
    """Titles, lengths of the two parts of a bar, and texts beside it."""
    if any(stage.forward is not None for stage in stages):
        yield "time", _times, lambda s: milliseconds(sum(_times(s)))
    yield "FLOPs", lambda s: (float(s.flops), 0.0), lambda s: units.si(s.flops)
    yield "activations", lambda s: (float(s.activations), 0.0), lambda s: units.memory(s.activations)
    yield "parameters", lambda s: (float(s.parameters), 0.0), lambda s: units.count(s.parameters)


def _times(stage: StageCost) -> tuple[float, float]:
    return stage.forward or 0.0, stage.backward or 0.0


def _shapes(
    found: ModelProfile, stages: Sequence[StageCost], columns: Sequence[_Column], labels: float
) -> Iterator[Rect | Text]:
    on = f" on {found.device}" if found.device else ""
    yield Text(_MARGIN, 24, f"{found.name}, batch {found.batch}{on}", size=15)
    for i, stage in enumerate(stages):
        yield Text(labels, _TOP + i * _ROW + 14, stage.name, end=True)
    for number, (title, parts, text) in enumerate(columns):
        left = labels + _GAP / 2 + number * (_COLUMN + _GAP)
        if title == "time":  # the words are the legend of the two colours
            yield Text(left, _TOP - 12, "forward", BAR)
            yield Text(left + 54, _TOP - 12, "backward", SECOND)
        else:
            yield Text(left, _TOP - 12, title, FAINT)
        most = max((sum(parts(stage)) for stage in stages), default=0.0) or 1.0
        for i, stage in enumerate(stages):
            at = left
            for amount, colour in zip(parts(stage), (BAR, SECOND), strict=True):
                length = amount / most * (_COLUMN - 62)
                if length > 0:
                    yield Rect(at, _TOP + i * _ROW + 3, max(1.0, length), _ROW - 8, colour)
                at += length
            if sum(parts(stage)):
                yield Text(at + 5, _TOP + i * _ROW + 14, text(stage), FAINT, 11)
