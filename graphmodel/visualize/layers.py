"""Puts the cells of a layered drawing in order and side by side: few crossings, straight lines, nothing overlaps.

A cell lies in a row; rows follow each other along the flow of the drawing, cells lie across it. Lines run from each row
to the next.

Source: Sugiyama, Tagawa and Toda 1981, "Methods for visual understanding of hierarchical system structures".
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

CellKind = Literal["box", "frame", "label", "title", "lane"]
SWEEPS = 14
"""How often the rows are put into a new order; the best one is kept."""
STEPS = 24
"""How often, at most, cells move towards what they are connected with."""
PITCH = 9.0
"""Distance of two lines that end at one box."""


@dataclass(eq=False)
class Cell:
    """Something in a row.

    Attributes:
        key: what it shows.
        kind: a box, a frame with its contents, the label of a line, the title of a frame, or a line passing by.
        cross: its size across the flow.
        along: its size along the flow.
        entries: where lines enter it, as distances from its middle; a box takes them anywhere.
        exits: where lines leave it.
        at: its middle across the flow.
    """

    key: Hashable
    kind: CellKind
    cross: float = 0.0
    along: float = 0.0
    entries: Mapping[Hashable, float] = field(default_factory=dict)
    exits: Mapping[Hashable, float] = field(default_factory=dict)
    at: float = 0.0


@dataclass(frozen=True, eq=False)
class Link:
    """A piece of a line between two rows."""

    line: Hashable
    first: Cell
    second: Cell


Rows = Sequence[list[Cell]]
Links = Sequence[Sequence[Link]]
"""The links between each row and the next."""


def put_in_order(rows: Rows, links: Links) -> None:
    """Sorts every row so that few lines cross: rows take the order of their neighbours, down and up in turn."""
    best, fewest = [list(row) for row in rows], _crossings(rows, links)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for i in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            between = links[i - 1] if down else links[i]
            place = {id(cell): n for n, cell in enumerate(rows[i - 1 if down else i + 1])}
            means: dict[int, list[float]] = defaultdict(list)
            for link in between:
                near, far = (link.second, link.first) if down else (link.first, link.second)
                ports = far.exits if down else far.entries
                shift = ports.get(link.line, 0.0) / far.cross if far.cross else 0.0
                means[id(near)].append(place[id(far)] + 0.9 * shift)
            wanted = {
                id(cell): sum(means[id(cell)]) / len(means[id(cell)]) if means[id(cell)] else float(n)
                for n, cell in enumerate(rows[i])
            }
            rows[i].sort(key=lambda cell: -1.0 if cell.kind == "title" else wanted[id(cell)])
        crossings = _crossings(rows, links)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, found in zip(rows, best, strict=True):
        row[:] = found


def _crossings(rows: Rows, links: Links) -> int:
    found = 0
    for i, between in enumerate(links):
        upper = {id(cell): n for n, cell in enumerate(rows[i])}
        lower = {id(cell): n for n, cell in enumerate(rows[i + 1])}
        ends = sorted(
            (
                (upper[id(link.first)], link.first.exits.get(link.line, 0.0)),
                (lower[id(link.second)], link.second.entries.get(link.line, 0.0)),
            )
            for link in between
        )
        seen: list[tuple[int, float]] = []
        for _, end in ends:
            found += len(seen) - bisect_right(seen, end)
            insort(seen, end)
    return found


def spacing(first: Cell, second: Cell) -> float:
    """The least distance between the edges of two neighbours."""
    kinds = {first.kind, second.kind}
    if kinds == {"lane"}:
        return 8.0 if not (first.cross or second.cross) else 9.0 if first.cross > 30 else 4.0
    if "lane" in kinds:
        return 7.0
    if kinds == {"label"}:
        return 9.0 if first.cross > 30 else 4.0
    return 9.0 if "label" in kinds else 14.0


def place(rows: Rows, links: Links, room: float = math.inf) -> None:
    """Moves cells within their rows until lines are as straight as the order of the rows allows.

    Args:
        rows: the cells in order.
        links: what lies between the rows.
        room: how wide everything together may get; a row that needs more gets it.
    """
    before: dict[int, list[Link]] = defaultdict(list)
    after: dict[int, list[Link]] = defaultdict(list)
    for between in links:
        for link in between:
            after[id(link.first)].append(link)
            before[id(link.second)].append(link)
    gaps = [[(a.cross + b.cross) / 2 + spacing(a, b) for a, b in pairwise(row)] for row in rows]
    for row in rows:
        _pack(row)
    titles = [(row[0], rows[i + 1]) for i, row in enumerate(rows[:-1]) if row and row[0].kind == "title"]
    for loose, frames_move in ((False, True), (True, True), (True, False)):
        pulls_on = {
            id(cell): [_pull(link, cell, True, before, after, loose) for link in before[id(cell)]]
            + [_pull(link, cell, False, before, after, loose) for link in after[id(cell)]]
            for row in rows
            for cell in row
        }
        for step in range(STEPS):
            farthest = 0.0
            for i in range(len(rows)) if step % 2 == 0 else range(len(rows) - 1, -1, -1):
                wanted, weights = [], []
                for cell in rows[i]:
                    pulls = [pull() for pull in pulls_on[id(cell)]]
                    if titles:
                        pulls += _pulls_to_title(cell, titles, loose)
                    weight = sum(w for _, w in pulls)
                    if cell.kind == "frame" and not frames_move:
                        pulls, weight = [(cell.at, 1e6)], 1e6
                    wanted.append(sum(w * at for at, w in pulls) / weight if weight else cell.at)
                    weights.append(weight or 0.01)
                found = _between(apart(wanted, weights, gaps[i]), rows[i], gaps[i], room)
                for cell, at in zip(rows[i], found, strict=True):
                    farthest = max(farthest, abs(cell.at - at))
                    cell.at = at
            if farthest < 0.05:
                break


def _between(found: list[float], row: Sequence[Cell], gaps: Sequence[float], room: float) -> list[float]:
    """Positions moved into the room, around 0."""
    if room == math.inf or not row:
        return found
    half = max(room, sum(gaps) + (row[0].cross + row[-1].cross) / 2) / 2
    least = -half + row[0].cross / 2
    for i, at in enumerate(found):
        found[i] = least = max(at, least)
        least += gaps[i] if i < len(gaps) else 0.0
    most = half - row[-1].cross / 2
    for i in range(len(found) - 1, -1, -1):
        found[i] = most = min(found[i], most)
        most -= gaps[i - 1] if i else 0.0
    return found


def _pulls_to_title(
    cell: Cell, titles: Sequence[tuple[Cell, Sequence[Cell]]], loose: bool
) -> list[tuple[float, float]]:
    """The first boxes of a frame lie below its title, which keeps the frame narrow."""
    weight = 1.5 if loose else 0.5
    for title, below in titles:
        left = title.at - title.cross / 2
        if cell is title and below:
            return [(min(c.at - c.cross / 2 for c in below) + title.cross / 2, weight)]
        if below and cell is below[0] and cell.kind != "lane":
            return [(left + cell.cross / 2, weight)]
    return []


def inset(cell: Cell) -> float:
    """How far from the corners of a box lines end."""
    return min(10.0, cell.cross / 4)


def _pull(
    link: Link,
    cell: Cell,
    is_second: bool,
    before: Mapping[int, Sequence[Link]],
    after: Mapping[int, Sequence[Link]],
    loose: bool,
) -> Callable[[], tuple[float, float]]:
    """Where a link wants a cell, and how strongly; cells move between calls."""
    other = link.first if is_second else link.second
    if loose and "box" in (cell.kind, other.kind) and cell.kind != other.kind:
        # A line that ends anywhere at a box is straight already; it only prefers the middle a little.
        box, line = (cell, other) if cell.kind == "box" else (other, cell)
        fixed = (line.exits if is_second == (cell is box) else line.entries).get(link.line, 0.0)
        reach = max(0.0, box.cross / 2 - inset(box))
        many = len((before if is_second == (cell is box) else after)[id(box)]) > 1
        sign = 1.0 if cell is box else -1.0

        def to_reach() -> tuple[float, float]:
            away = line.at + fixed - box.at
            if abs(away) <= reach:
                return (cell.at if many else other.at + sign * fixed), 0.15
            return cell.at + sign * (away - reach if away > 0 else away + reach), 2.0

        return to_reach
    own = _port(link, cell, is_second, before if is_second else after)
    far = _port(link, other, not is_second, after if is_second else before)
    weight = 6.0 if {cell.kind, other.kind} <= {"lane", "label"} else 2.0
    if isinstance(own, float) and isinstance(far, float):
        return lambda: (other.at + far - own, weight)
    return lambda: (other.at + _now(far) - _now(own), weight)


def _now(port: float | Callable[[], float]) -> float:
    return port if isinstance(port, float) else port()


def _port(link: Link, cell: Cell, entering: bool, of_cell: Mapping[int, Sequence[Link]]) -> float | Callable[[], float]:
    """Where a line meets a cell, from its middle; lines that end at one box are spread over it."""
    fixed = (cell.entries if entering else cell.exits).get(link.line)
    if fixed is not None:
        return float(fixed)
    here = of_cell[id(cell)]
    if cell.kind != "box" or len(here) < 2:
        return 0.0
    pitch = min(40.0, (cell.cross - 2 * inset(cell)) / (len(here) - 1))

    def spread() -> float:
        ends = sorted(here, key=lambda item: (item.first if entering else item.second).at)
        return (ends.index(link) - (len(ends) - 1) / 2) * pitch

    return spread


def apart(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The positions nearest to the wanted ones (weighted squares) in which neighbours keep their distances.

    >>> apart([0.0, 0.0], [1.0, 1.0], [10.0])
    [-5.0, 5.0]
    """
    if len(wanted) == 1:
        return [wanted[0]]
    shifts = [0.0]
    for gap in gaps:
        shifts.append(shifts[-1] + gap)
    pools: list[list[float]] = []  # mean, weight, number of positions
    for want, weight, shift in zip(wanted, weights, shifts, strict=False):
        pools.append([want - shift, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, heavy, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * heavy) / (last[1] + heavy)
            last[1] += heavy
            last[2] += count
    means = [mean for mean, _, count in pools for _ in range(int(count))]
    return [mean + shift for mean, shift in zip(means, shifts, strict=False)]


def ports(cell: Cell, links: Sequence[Link], *, entering: bool) -> dict[Hashable, float]:
    """Where each of the lines at one side of a cell meets it: straight below or above its other end if possible."""
    fixed = cell.entries if entering else cell.exits
    if cell.kind != "box":
        return {link.line: cell.at + fixed.get(link.line, 0.0) for link in links}

    def other_end(link: Link) -> float:
        other = link.first if entering else link.second
        return other.at + (other.exits if entering else other.entries).get(link.line, 0.0)

    ends = sorted(links, key=other_end)
    low, high = cell.at - cell.cross / 2 + inset(cell), cell.at + cell.cross / 2 - inset(cell)
    pitch = min(PITCH, (high - low) / max(1, len(ends) - 1))
    found = apart([min(max(other_end(e), low), high) for e in ends], [1.0] * len(ends), [pitch] * (len(ends) - 1))
    last = len(found) - 1
    found = [max(at, low + i * pitch) for i, at in enumerate(found)]
    found = [min(at, high - (last - i) * pitch) for i, at in enumerate(found)]
    return {link.line: at for link, at in zip(ends, found, strict=True)}


def _pack(row: Sequence[Cell]) -> None:
    at = 0.0
    for i, cell in enumerate(row):
        at += (cell.cross / 2 + spacing(row[i - 1], cell)) if i else 0.0
        cell.at = at
        at += cell.cross / 2
    middle = at / 2
    for cell in row:
        cell.at -= middle
