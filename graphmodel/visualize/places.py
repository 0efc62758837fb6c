"""What a layout is made of, and what it is: sizes, limits, and places."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphmodel.visualize.routes import Point


@dataclass(frozen=True)
class Sizes:
    """Widths and heights of everything with text: boxes by id, labels by number of bundle, titles by frame."""

    boxes: Mapping[str, Point]
    labels: Mapping[int, Point]
    titles: Mapping[str, Point]

    def turned(self) -> Sizes:
        """Sizes for a flow from left to right: what is across is then along."""
        flip = {k: (h, w) for k, (w, h) in self.boxes.items()}
        return Sizes(flip, {k: (h, w) for k, (w, h) in self.labels.items()}, self.titles)


@dataclass(frozen=True)
class Limits:
    """How much room there is.

    Attributes:
        across: rows do not get wider than this if that can be helped.
        along: the drawing is folded if it gets longer than this.
        frame: the same for the contents of a frame.
    """

    across: float = math.inf
    along: float = math.inf
    frame: float = math.inf


@dataclass
class Layout:
    """Where everything lies; y runs downwards.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        boxes: the middle of each box.
        labels: the middle of each bundle's label.
        titles: the middle of each frame's title.
        frames: left, top, right and bottom of each frame.
        arrows: each arrow as control points of cubic curves, ending at its tip.
    """

    width: float = 0.0
    height: float = 0.0
    boxes: dict[str, Point] = field(default_factory=dict)
    labels: dict[int, Point] = field(default_factory=dict)
    titles: dict[str, Point] = field(default_factory=dict)
    frames: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    arrows: list[list[Point]] = field(default_factory=list)

    def moved(self, x: float, y: float) -> Layout:
        """The same layout elsewhere."""

        def shift(places: Mapping[Any, Point]) -> dict[Any, Point]:
            return {k: (a + x, b + y) for k, (a, b) in places.items()}

        frames = {k: (a + x, b + y, c + x, d + y) for k, (a, b, c, d) in self.frames.items()}
        arrows = [[(a + x, b + y) for a, b in points] for points in self.arrows]
        return replace(
            self,
            boxes=shift(self.boxes),
            labels=shift(self.labels),
            titles=shift(self.titles),
            frames=frames,
            arrows=arrows,
        )


def turned(found: Layout) -> Layout:
    """A layout that flows from top to bottom as one that flows from left to right."""

    def flip(places: Mapping[Hashable, Point]) -> dict[Hashable, Point]:
        return {k: (y, x) for k, (x, y) in places.items()}

    frames = {k: (y0, x0, y1, x1) for k, (x0, y0, x1, y1) in found.frames.items()}
    return Layout(
        found.height, found.width, flip(found.boxes), flip(found.labels), flip(found.titles), frames,  # type: ignore[arg-type]
        [[(y, x) for x, y in points] for points in found.arrows],
    )  # fmt: skip
