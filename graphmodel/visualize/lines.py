"""Where the lines of a layered drawing run: between rows, at boxes, and around the end of a folded line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphmodel.visualize.layers import Cell, Link, inset, ports
from graphmodel.visualize.routes import Route

LANE = 7.0
"""Distance of lines that run beside each other from one line of a folded drawing to the next."""


@dataclass
class Row:
    """Where a row lies: its cells' middles across are relative to the middle of its line."""

    start: float
    end: float
    line: int


class Joints:
    """Where lines meet boxes: computed once for each side of a box."""

    def __init__(self, rows: Sequence[Sequence[Cell]], links: Sequence[Sequence[Link]]) -> None:
        below: dict[int, list[Link]] = defaultdict(list)
        above: dict[int, list[Link]] = defaultdict(list)
        cells = {id(cell): cell for row in rows for cell in row}
        for between in links:
            for link in between:
                if all(link.line != other.line for other in below[id(link.first)]):
                    below[id(link.first)].append(link)
                above[id(link.second)].append(link)
        self.exits = {key: ports(cells[key], found, entering=False) for key, found in below.items()}
        self.entries = {key: ports(cells[key], found, entering=True) for key, found in above.items()}

    def leaves(self, link: Link) -> float:
        """Where a line leaves the first cell of a link."""
        return self.exits[id(link.first)][link.line]

    def enters(self, link: Link) -> float:
        """Where it enters the second one."""
        return self.entries[id(link.second)][link.line]


class Turn:
    """Lines from the end of one line of a folded drawing to the start of the next."""

    def __init__(
        self,
        links: Sequence[Link],
        joints: Joints,
        placed: Sequence[Row],
        row: int,
        rows: Sequence[Sequence[Cell]],
    ) -> None:
        lines = {link.line: joints.leaves(link) for link in links}
        self.order = {line: i for i, line in enumerate(sorted(lines, key=lines.__getitem__))}
        here = [cell for r, spot in enumerate(placed) if spot.line == placed[row].line for cell in rows[r]]
        self.bottom = max(c.at + c.cross / 2 for c in here)
        self.end = placed[row].end

    def route(self, route: Route, link: Link, x: float, start: float) -> None:
        """Leads a line around."""
        j, last = self.order[link.line], len(self.order) - 1
        outer = self.end + 4 + LANE * (last - j + 0.5)
        between = self.bottom + 4 + LANE * (last - j + 0.5)
        inner = start - 8 - LANE * (j + 0.5)
        c, _ = route.end
        route.rounded([(c, outer), (between, outer), (between, inner), (x, inner), (x, start)])


def spans(breaks: Sequence[int], count: int) -> list[tuple[int, int]]:
    """First and last-but-one rows of the lines."""
    return list(zip([0, *breaks], [*breaks, count], strict=True))


def start_of(cell: Cell, row: Sequence[Cell], spot: Row) -> float:
    """Where a cell starts along the flow: beside a frame at the start of its row, otherwise in the middle."""
    if cell.kind == "lane" or any(c.kind in ("frame", "title") for c in row):
        return spot.start
    return (spot.start + spot.end - cell.along) / 2


def gap_between(first: Sequence[Cell], second: Sequence[Cell], between: Sequence[Link]) -> float:
    """The distance of two rows: more if lines between them are slanted."""
    kinds = {c.kind for c in second}
    least = 12.0 if {"box", "frame"} & kinds else 5.0
    if not all(c.kind == "lane" for c in first) and all(c.kind == "lane" for c in second):
        return 4.0  # a line leaves a frame
    if all(c.kind == "lane" for c in first):
        return 6.0 if first else 0.0
    slant = max((abs(_far(link)) for link in between), default=0.0)
    return least + min(0.3 * slant, 26.0)


def _far(link: Link) -> float:
    """How far a line moves across between two rows."""

    def span(cell: Cell, at: Mapping[Hashable, float]) -> tuple[float, float]:
        if cell.kind == "box":
            return cell.at - cell.cross / 2 + inset(cell), cell.at + cell.cross / 2 - inset(cell)
        return (cell.at + at.get(link.line, 0.0),) * 2

    low, high = span(link.first, link.first.exits)
    left, right = span(link.second, link.second.entries)
    return max(0.0, left - high, low - right)


def paths(links: Sequence[Sequence[Link]]) -> dict[Hashable, dict[int, list[Link]]]:
    """The links of each line by row."""
    found: dict[Hashable, dict[int, list[Link]]] = defaultdict(lambda: defaultdict(list))
    for r, between in enumerate(links):
        for link in between:
            found[link.line][r].append(link)
    return found


def ends_of(steps: Mapping[int, Sequence[Link]]) -> Iterator[tuple[int, Cell]]:
    """The cells at which a line ends, with their rows."""
    for r, between in steps.items():
        for link in between:
            goes_on = link.second.kind in ("lane", "label") and any(
                other.first is link.second for other in steps.get(r + 1, ())
            )
            if not goes_on:
                yield r + 1, link.second
