"""Reads where things lie in a drawing: texts measured with the font that the drawing carries, boxes, borders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from xml.etree import ElementTree

import uharfbuzz

from graphmodel.visualize.graphviz import VENDOR
from graphmodel.visualize.render import SVG


@dataclass(frozen=True)
class Area:
    """A rectangle, y downwards."""

    left: float
    top: float
    right: float
    bottom: float
    what: str = ""

    def overlaps(self, other: Area, by: float = 0.5) -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > by and down > by

    def has(self, point: tuple[float, float], by: float = 0.5) -> bool:
        x, y = point
        return self.left + by < x < self.right - by and self.top + by < y < self.bottom - by

    def holds(self, other: Area, slack: float = 0.5) -> bool:
        return (
            self.left - slack <= other.left
            and self.top - slack <= other.top
            and other.right <= self.right + slack
            and other.bottom <= self.bottom + slack
        )


@cache
def font(weight: str) -> uharfbuzz.Font:
    return uharfbuzz.Font(uharfbuzz.Face(uharfbuzz.Blob.from_file_path(str(VENDOR / f"Inter-{weight}.ttf"))))


def width(text: str, weight: str) -> float:
    """The length of a line in ems, kerning included, as browsers set it."""
    line = uharfbuzz.Buffer()
    line.add_str(text)
    line.guess_segment_properties()
    uharfbuzz.shape(font(weight), line)
    return sum(float(p.x_advance) for p in line.glyph_positions) / font(weight).face.upem


def text_area(element: ElementTree.Element) -> Area:
    """The space of a text: its width by the font, its height from cap to descender."""
    size = float(element.get("font-size", "14"))
    weight = "SemiBold" if element.get("font-weight") == "bold" else "Regular"
    text = element.text or ""
    across = width(text.rstrip(), weight) * size
    start = float(element.get("x", "0"))
    if element.get("text-anchor") == "middle":
        start -= across / 2
    base = float(element.get("y", "0"))
    return Area(start, base - 0.73 * size, start + across, base + 0.2 * size, text)


def shape_area(element: ElementTree.Element) -> Area:
    """The bounding box of a path or polygon."""
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", element.get("d") or element.get("points") or "")]
    return Area(min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))


def points(path: str, steps: int = 24) -> list[tuple[float, float]]:
    """Points along a path of cubic curves, as Graphviz writes them."""
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path)]
    ends = list(zip(numbers[::2], numbers[1::2], strict=True))
    found = []
    for i in range(0, len(ends) - 3, 3):
        a, b, c, d = ends[i : i + 4]
        for step in range(steps + 1):
            t = step / steps
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            found.append(tuple(sum(w * p[k] for w, p in zip(weights, (a, b, c, d), strict=True)) for k in (0, 1)))
    return [(x, y) for x, y in found]


def groups(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """The groups of a class."""
    return [g for g in root.iter(f"{{{SVG}}}g") if name in g.get("class", "").split()]


def shapes(group: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in group if e.tag in (f"{{{SVG}}}path", f"{{{SVG}}}polygon")]


def texts(group: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in group.iter(f"{{{SVG}}}text") if (e.text or "").strip()]
