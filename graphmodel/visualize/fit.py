"""Chooses the layout that suits: a given width with readable text, or the shape of a window, and never a long strip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphmodel.diagnostics import fail
from graphmodel.visualize.dot import PAD, SMALLEST, Form, Writer
from graphmodel.visualize.layout import lay_out
from graphmodel.visualize.picture import PAGE, Orientation, Picture
from graphmodel.visualize.places import Layout, Limits, Sizes
from graphmodel.visualize.render import measure
from graphmodel.visualize.routes import Point

LEAST = 6.0
"""The smallest text of a drawing with a given width, in points of the paper."""
LONGEST = 3.0
"""A drawing is folded if it is longer than so many times its width."""
TALLEST = 5.0
"""The same for one that flows from top to bottom."""
MANY = 150
"""With more boxes, fewer layouts are tried."""
ROOMY = 0.55
"""A drawing that takes no more than this of a window's width and height suits it as well as any."""
SPACE = 12.0
"""Between the heading, the drawing and the legend."""


@dataclass(frozen=True)
class Drawing:
    """A drawing that only Graphviz's `nop2` needs to render.

    Attributes:
        dot: the picture with all positions.
        width: of the paper, in points.
        height: of the paper, in points.
        scale: by how much the texts shrink on it.
    """

    dot: str
    width: float
    height: float
    scale: float = 1.0


def draw_placed(
    picture: Picture,
    *,
    theme: str = "light",
    orientation: Orientation | None = None,
    legend: bool = True,
    title: bool = True,
    width: float | None = None,
    window: Point | None = None,
) -> Drawing:
    """Lays a picture out.

    Args:
        picture: what to draw.
        theme: `light` or `dark`.
        orientation: `portrait` draws from top to bottom, `landscape` from left to right; None is `portrait`, or what
            suits the window.
        legend: whether to explain the colours and badges that occur.
        title: whether to write the model's name and totals above.
        width: the width of the paper in points; the smallest text has at least 6 points on it.
        window: width and height of a window that the drawing should fill.

    Raises:
        CompileError: GM530 if Graphviz fails, or if the width is too small for the text.
    """
    flows = _forms(orientation, width is not None, window)
    orientation = orientation or "portrait"
    room = (width * SMALLEST / LEAST - 2 * PAD) if width else None
    best: tuple[float, Layout, Writer, dict[str, Point]] | None = None
    for flow, form in flows:
        writer = Writer(picture, theme, form=form, room=room or (800.0 if orientation == "landscape" else 480.0))
        sizes = measured(writer, legend, title)
        around = {name: sizes.boxes[name] for name in ("heading", "legend") if name in sizes.boxes}
        extra = sum(height + SPACE for _, height in around.values())
        for layout in _candidates(writer, sizes, flow, room, window):
            x = max([layout.width, *(w for w, _ in around.values())])
            y = layout.height + extra
            score = _score(x, y, orientation, room, window)
            if best is None or score < best[0]:
                best = score, layout, writer, around
            if window is not None and score == ROOMY:
                break
        if best is not None and window is not None and best[0] == ROOMY:
            break
    assert best is not None
    _, layout, writer, around = best
    return _on_paper(layout, writer, around, width, room)


def measured(writer: Writer, legend: bool, title: bool) -> Sizes:
    """The sizes of everything with text; those of the heading and of the legend are among the boxes."""
    found = measure(writer.parts(legend, title))
    boxes = {b.id: found[f"b-{i}"] for i, b in enumerate(writer.picture.boxes)}
    boxes |= {name: found[name] for name in ("heading", "legend") if name in found}
    names = {b.number: f"text {b.number}" for b in writer.tree.bundles}
    titles = {id: found[f"f-{i}l"] for i, id in enumerate(writer.frames) if id in writer.tree.visible}
    return Sizes(boxes, {n: found[name] for n, name in names.items() if name in found}, titles)


def _forms(orientation: Orientation | None, narrow: bool, window: Point | None) -> list[tuple[Orientation, Form]]:
    """The flows and the forms of boxes to choose from: on a page of a given width, columns are a landscape, too."""
    if window is not None and orientation is None:
        return [("landscape", ""), ("portrait", "")] if window[0] > window[1] else [("portrait", "")]
    if not narrow:
        return [(orientation or "portrait", "")]
    if orientation != "landscape":
        return [("portrait", ""), ("portrait", "wide")]
    return [("landscape", ""), ("landscape", "tall"), ("portrait", ""), ("portrait", "tall")]


def _candidates(
    writer: Writer, sizes: Sizes, flow: Orientation, room: float | None, window: Point | None
) -> Iterator[Layout]:
    """Layouts to choose from."""
    known: dict[Any, Any] = {}

    def made(limits: Limits) -> Layout:
        return lay_out(writer.tree, sizes, flow, limits, known)

    few = len(writer.picture.boxes) > MANY
    if flow == "portrait":
        layout = made(Limits(room or math.inf))
        yield layout
        for share in (0.92, 0.84):
            if room is not None and layout.width > room:  # lines that pass boxes need room, too
                layout = made(Limits(share * room))
                yield layout
        if room is None and layout.width > LONGEST * layout.height:
            for across in (1400.0, 1000.0, 700.0):
                yield made(Limits(across))
        most = (
            1.0
            if (window is not None and window[0] > window[1]) or (room is not None and room > PAGE * SMALLEST / LEAST)
            else TALLEST
        )
        for lines in (2, 3, 4)[: None if room else 2] if layout.height > most * layout.width else ():
            long = layout.height / lines + 40
            if room:
                yield made(Limits(room, long, long - 130))
            for across in (room, room / lines) if room else (math.inf,):
                yield made(Limits(across, long, long - 40))
        return
    whole = made(Limits())
    yield whole
    if room is not None:
        for frame in (room - 20, room - 120, room - 240):
            for across in (math.inf,) if few else (math.inf, 300.0):
                yield made(Limits(across, room, frame))
        return
    for lines in (2, 3) if few else (2, 3, 4, 5):
        long = whole.width / lines + 60
        for frame in (long - 20, long - 130)[: None if window is None else 1]:
            yield made(Limits(math.inf, long, frame))


def _score(x: float, y: float, orientation: Orientation, room: float | None, window: Point | None) -> float:
    """How little a layout suits: the height on paper of a given width, otherwise what shape it has."""
    if window is not None:
        return max(x / window[0], y / window[1], ROOMY)
    if room is not None:
        return y + 1e3 * max(0.0, x - room - 0.5)
    if orientation == "landscape":
        strip = max(0.0, x / y - LONGEST, y / x - 0.9)
    else:
        strip = max(0.0, y / x - TALLEST, x / y - LONGEST)
    return strip * 1e6 + x * y / 1e3


def _on_paper(
    layout: Layout, writer: Writer, around: dict[str, Point], width: float | None, room: float | None
) -> Drawing:
    """The drawing with its heading above and its legend below."""
    across = max([layout.width, room or 0.0, *(w for w, _ in around.values())])
    if room is not None and across > room + 0.5 and width is not None:
        least = math.ceil((across + 2 * PAD) * LEAST / SMALLEST / 72 * 25.4)
        raise fail(
            "GM530",
            f"at this width the smallest text would be less than {LEAST:g} points",
            help=f"use `--width {least}mm` or more, `--depth 0`, or the other orientation",
        )
    top = around["heading"][1] + SPACE if "heading" in around else 0.0
    layout = layout.moved((across - layout.width) / 2 if room is not None else 0.0, top)
    down = top + layout.height
    places = {}
    if "heading" in around:
        w, h = around["heading"]
        places["heading"] = (w / 2, h / 2)
    if "legend" in around:
        w, h = around["legend"]
        places["legend"] = (w / 2, down + SPACE + h / 2)
        down += SPACE + h
    paper = across + 2 * PAD, down + 2 * PAD
    scale = width / paper[0] if width is not None else 1.0
    dot = writer.placed(layout, ((0.0, 0.0), (across, down)), places)
    return Drawing(dot, paper[0] * scale, paper[1] * scale, scale)
