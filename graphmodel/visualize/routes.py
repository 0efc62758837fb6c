"""A line of a drawing as control points of cubic curves, without breaks or corners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]
CORNER = 6.0
"""Radius of rounded corners."""


@dataclass
class Route:
    """A line that is drawn step by step; the first coordinate runs across the flow, the second one along it."""

    points: list[Point] = field(default_factory=list)

    @property
    def end(self) -> Point:
        """Where it ends so far."""
        return self.points[-1]

    def move(self, x: float, y: float) -> None:
        """Starts it."""
        self.points = [(x, y)]

    def straight(self, x: float, y: float) -> None:
        """Adds a straight piece."""
        a, b = self.end
        if abs(x - a) + abs(y - b) > 0.01:
            self.points += [(a + (x - a) / 3, b + (y - b) / 3), (a + (x - a) * 2 / 3, b + (y - b) * 2 / 3), (x, y)]

    def curve(self, x: float, y: float) -> None:
        """Adds a curve that starts and ends along the flow."""
        a, b = self.end
        if abs(x - a) < 0.01:
            self.straight(x, y)
        else:
            self.points += [(a, b + (y - b) / 2), (x, y - (y - b) / 2), (x, y)]

    def rounded(self, corners: Sequence[Point]) -> None:
        """Adds a line with rounded corners; the last one is its end."""
        for corner, after in pairwise(corners):
            before = _towards(corner, self.end)
            self.straight(*before)
            leave = _towards(corner, after)
            self.points += [_middle(before, corner), _middle(leave, corner), leave]
        self.straight(*corners[-1])

    def join(self, other: Route) -> None:
        """Adds another line that starts where this one ends."""
        if not self.points:
            self.points = list(other.points)
            return
        self.straight(*other.points[0])
        self.points += other.points[1:]

    def moved(self, x: float, y: float) -> Route:
        """The same line elsewhere."""
        return Route([(a + x, b + y) for a, b in self.points])


def _towards(corner: Point, other: Point) -> Point:
    """The point at which a rounded corner starts."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    far = abs(dx) + abs(dy)
    part = min(CORNER, far / 2) / far if far else 0.0
    return corner[0] + dx * part, corner[1] + dy * part


def _middle(first: Point, second: Point) -> Point:
    """The control point that makes a quarter circle of a corner, nearly."""
    return first[0] + (second[0] - first[0]) * 0.55, first[1] + (second[1] - first[1]) * 0.55
