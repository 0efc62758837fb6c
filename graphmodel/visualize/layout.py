"""Lays a picture out: boxes in rows along the flow, frames around them, lines from end to end, within a given width.

A frame is laid out on its own and then placed like a box; lines enter and leave it at fixed points of its border. A
drawing that is too long along its flow is folded, as text is into lines.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import networkx as nx

from graphmodel.visualize.layers import Cell, Link, place, put_in_order
from graphmodel.visualize.lines import LANE, Joints, Row, Turn, ends_of, gap_between, paths, spans, start_of
from graphmodel.visualize.picture import Orientation
from graphmodel.visualize.places import Layout, Limits, Sizes, turned
from graphmodel.visualize.routes import Point, Route
from graphmodel.visualize.tree import ROOT, Bundle, Tree

MARGIN = 10.0
"""Between a frame and what it contains."""
EXIT = "exit"


def lay_out(
    tree: Tree, sizes: Sizes, orientation: Orientation, limits: Limits, known: dict[Hashable, _Block] | None = None
) -> Layout:
    """The layout of a picture.

    Args:
        tree: the picture.
        sizes: of everything with text.
        orientation: `portrait` flows from top to bottom, `landscape` from left to right.
        limits: how much room there is.
        known: frames that have been laid out, for other limits of the same sizes and orientation.
    """
    landscape = orientation == "landscape"
    builder = _Builder(tree, sizes.turned() if landscape else sizes, landscape, limits, {} if known is None else known)
    block = builder.block(ROOT)
    found = Layout(block.cross, block.along, block.boxes, block.labels, block.titles, block.frames)
    found.arrows = [builder.arrow(i) for i in range(len(tree.picture.arrows))]
    return turned(found) if landscape else found


@dataclass
class _Block:
    """A frame, or the whole picture, laid out from (0, 0): first coordinates run across the flow, second ones along."""

    cross: float = 0.0
    along: float = 0.0
    entries: dict[Hashable, float] = field(default_factory=dict)
    exits: dict[Hashable, float] = field(default_factory=dict)
    boxes: dict[str, Point] = field(default_factory=dict)
    labels: dict[int, Point] = field(default_factory=dict)
    titles: dict[str, Point] = field(default_factory=dict)
    frames: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    pieces: dict[tuple[str, int, str], Route] = field(default_factory=dict)

    def take(self, other: _Block, x: float, y: float) -> None:
        """Adds a block that lies inside, with its corner at (x, y)."""
        self.boxes |= {k: (c + x, a + y) for k, (c, a) in other.boxes.items()}
        self.labels |= {k: (c + x, a + y) for k, (c, a) in other.labels.items()}
        self.titles |= {k: (c + x, a + y) for k, (c, a) in other.titles.items()}
        self.frames |= {k: (c + x, a + y, d + x, b + y) for k, (c, a, d, b) in other.frames.items()}
        self.pieces |= {k: route.moved(x, y) for k, route in other.pieces.items()}


class _Builder:
    def __init__(
        self, tree: Tree, sizes: Sizes, landscape: bool, limits: Limits, known: dict[Hashable, _Block]
    ) -> None:
        self.tree, self.sizes, self.landscape, self.limits, self.known = tree, sizes, landscape, limits, known
        self.blocks: dict[str, _Block] = {}

    def arrow(self, number: int) -> list[Point]:
        """The control points of an arrow."""
        target = self.tree.picture.arrows[number].target
        bundle = next(b for b in self.tree.bundles if number in b.arrows)
        pieces = self.blocks[ROOT].pieces
        route = Route()
        chain = self.tree.chain(bundle.source)[1:]
        for frame in chain[: chain.index(bundle.root)]:
            route.join(pieces[frame, bundle.number, EXIT])
        inner = bundle.root
        while inner != target:
            child = self.tree.child(inner, target)
            assert child is not None
            route.join(pieces[inner, bundle.number, child])
            inner = child
        return route.points

    # -- one frame ----------------------------------------------------------------------------------------------------

    def block(self, name: str) -> _Block:
        """A frame, or the whole picture."""
        key = name, self.limits.across, self.limits.frame
        if name != ROOT and key in self.known:
            self.blocks[name] = self.known[key]
            return self.known[key]
        blocks = {child: self.block(child) for child in self.tree.children(name) if child in self.tree.parent}
        cells = {child: self.cell(child, blocks) for child in self.tree.children(name)}
        rows, links = self.rows(name, cells)
        put_in_order(rows, links)
        room = self.room(name)
        place(rows, links, room)
        gaps = [gap_between(a, b, between) for a, b, between in zip(rows, rows[1:], links, strict=False)]
        breaks = self.breaks(name, rows, gaps)
        for first, last in spans(breaks, len(rows)) if breaks else ():
            place(rows[first:last], links[first : last - 1], room)
        return self.drawn(name, rows, links, breaks, blocks)

    def room(self, name: str) -> float:
        """How wide the contents of a frame may get."""
        return self.limits.across - 2 * MARGIN * sum(f in self.tree.visible for f in self.tree.chain(name) if name)

    def cell(self, child: str, blocks: Mapping[str, _Block]) -> Cell:
        if child in blocks:
            b = blocks[child]
            entries = {k: at - b.cross / 2 for k, at in b.entries.items()}
            exits = {k: at - b.cross / 2 for k, at in b.exits.items()}
            return Cell(child, "frame", b.cross, b.along, entries, exits)
        return Cell(child, "box", *self.sizes.boxes[child])

    def ranks(self, name: str, cells: Mapping[str, Cell]) -> list[list[Cell]]:
        """The boxes and frames in rows: after everything that they read, and in a row no more than fit."""
        room = self.room(name)
        network: nx.DiGraph[str] = nx.DiGraph()
        network.add_nodes_from(cells)
        network.add_edges_from(self.tree.edges(name))
        order = {child: i for i, child in enumerate(cells)}
        rank: dict[str, float] = {}
        width: dict[float, float] = defaultdict(float)

        def put(child: str, at: float, step: float) -> None:
            while width[at] and width[at] + cells[child].cross > room:
                at += step
            rank[child] = at
            width[at] += cells[child].cross + 14

        for child in nx.lexicographical_topological_sort(network, key=order.__getitem__):
            put(child, max((rank[p] + 1 for p in network.predecessors(child)), default=0), 1)
        if room < math.inf:  # what reads nothing comes as late as possible, if necessary in a row of its own
            for child in [c for c in cells if not network.in_degree(c) and network.out_degree(c)]:
                late = min(rank[s] for s in network.successors(child)) - 1
                if late > rank[child]:
                    width[rank[child]] -= cells[child].cross + 14
                    if width[late] + cells[child].cross <= room:
                        put(child, late, 1)
                    else:
                        put(child, late + 0.5, 2**-6)
        return [[cells[c] for c in cells if rank[c] == r] for r in sorted(set(rank.values()))]

    def rows(self, name: str, cells: Mapping[str, Cell]) -> tuple[list[list[Cell]], list[list[Link]]]:
        """All rows with their labels, and the lines that pass through them."""
        rows: list[list[Cell]] = []
        outside = self.tree.chain(name)[1:] if name else []
        bundles = [
            b
            for b in self.tree.bundles
            if b.root in (name, *outside) and any(self.tree.child(name, i) for i in (b.source, *b.targets))
        ]
        bundles.sort(key=lambda b: self.entry_order(name, b))
        row_of: dict[Hashable, int] = {}
        at: dict[int, dict[int, Cell]] = {b.number: {} for b in bundles}
        if name != ROOT:
            title = self.sizes.titles.get(name)
            rows.append([] if self.landscape or title is None else [Cell(name, "title", *title)])
        for rank in self.ranks(name, cells):
            row_of |= {cell.key: len(rows) for cell in rank}
            rows.append(rank)
            rows += self.label_rows(name, rank, bundles, at, len(rows))
        rows += [[]] if name != ROOT else []
        links: list[list[Link]] = [[] for _ in rows[1:]]
        roomy = self.landscape or self.limits.across == math.inf
        for bundle in bundles:
            cells_at = at[bundle.number]
            source = self.tree.child(name, bundle.source)
            inside = [self.tree.child(name, t) for t in bundle.targets]
            targets = {child for child in inside if child is not None}
            first = 0 if source is None else row_of[source]
            ends = {row_of[t] for t in targets}
            if source is not None and bundle.root != name:
                ends.add(len(rows))
            if source is not None:
                cells_at[first] = cells[source]
            for r in range(first + (source is not None), max(ends)):
                if r not in cells_at:
                    # A label before or behind the frame needs room, so that the line to it is straight.
                    at_border = name != ROOT and r in (0, len(rows) - 1)
                    label = self.sizes.labels.get(bundle.number, (0.0, 0.0)) if at_border and roomy else (0.0, 0.0)
                    cells_at[r] = Cell(bundle.number, "lane", label[0])
                    rows[r].append(cells_at[r])
            for r in range(first, max(ends) - 1):
                links[r].append(Link(bundle.number, cells_at[r], cells_at[r + 1]))
            for target in targets:
                links[row_of[target] - 1].append(Link(bundle.number, cells_at[row_of[target] - 1], cells[target]))
        return rows, links

    def entry_order(self, name: str, bundle: Bundle) -> tuple[int, float]:
        """The order in which lines come from outside: as they leave the frame that they come from."""
        if name == ROOT or self.tree.child(name, bundle.source) is not None:
            return 0, 0.0
        around = self.tree.parent[name]
        source = self.tree.child(around, bundle.source)
        if source is None:
            return 0, 0.0
        exits = self.blocks[source].exits if source in self.blocks else {}
        return self.tree.children(around).index(source), exits.get(bundle.number, 0.0)

    def label_rows(
        self, name: str, rank: Sequence[Cell], bundles: Sequence[Bundle], at: Mapping[int, dict[int, Cell]], row: int
    ) -> list[list[Cell]]:
        """The labels of the lines that start in a row."""
        room = self.room(name)
        found: list[list[Cell]] = []
        width = math.inf
        for bundle in bundles:
            source = self.tree.child(name, bundle.source)
            if bundle.root != name or bundle.number not in self.sizes.labels or all(c.key != source for c in rank):
                continue
            cell = Cell(bundle.number, "label", *self.sizes.labels[bundle.number])
            if width + cell.cross > room or not found:
                found.append([])
                width = 0.0
            found[-1].append(cell)
            width += cell.cross + 16
            at[bundle.number][row + len(found) - 1] = cell
        return found

    def breaks(self, name: str, rows: Sequence[Sequence[Cell]], gaps: Sequence[float]) -> list[int]:
        """The rows that start a new line."""
        limit = self.limits.along if name == ROOT else self.limits.frame
        starts = [i for i, row in enumerate(rows) if i > 1 and any(c.kind in ("box", "frame") for c in row)]
        thick = [max((c.along for c in row), default=0.0) for row in rows]
        total = sum(thick) + sum(gaps)
        if total <= limit or not starts:
            return []
        limit -= 30
        starts.append(len(rows))

        def folded(most: float) -> list[int]:
            found, first = [], 0
            for start, after in pairwise(starts):
                if sum(thick[first:after]) + sum(gaps[first : after - 1]) > most:
                    found.append(start)
                    first = start
            return found

        low, high = total / (len(folded(limit)) + 1), limit
        for _ in range(12):  # lines of about the same length
            middle = (low + high) / 2
            if len(folded(middle)) > len(folded(limit)):
                low = middle
            else:
                high = middle
        return folded(high)

    # -- positions ----------------------------------------------------------------------------------------------------

    def drawn(
        self,
        name: str,
        rows: Sequence[list[Cell]],
        links: Sequence[Sequence[Link]],
        breaks: Sequence[int],
        blocks: Mapping[str, _Block],
    ) -> _Block:
        """The block with everything in its place."""
        block = _Block()
        bordered = name in self.tree.visible
        margin = MARGIN if bordered else 0.0
        title = self.sizes.titles.get(name, (0.0, 0.0))
        head = title[1] + 4 if bordered and self.landscape else 0.0
        wraps = [len({link.line for link in links[i - 1]}) for i in breaks]
        side = LANE * max(wraps, default=0) + (8 if breaks else 0)
        placed: list[Row] = []
        top = margin + head
        farthest = 0.0
        for number, (first, last) in enumerate(spans(breaks, len(rows))):
            inside = [cell for row in rows[first:last] for cell in row]
            left = min((c.at - c.cross / 2 for c in inside), default=0.0)
            right = max((c.at + c.cross / 2 for c in inside), default=0.0)
            for cell in inside:
                if cell.kind == "title":
                    cell.at = left + cell.cross / 2
                cell.at += top - left
            a = margin + (side if number or self.landscape else 0.0)  # only later lines start with turns
            for i in range(first, last):
                if i > first:
                    a += gap_between(rows[i - 1], rows[i], links[i - 1])
                end = a + max((c.along for c in rows[i]), default=0.0)
                placed.append(Row(a, end, number))
                a = end
            farthest = max(farthest, a)
            block.cross = top + right - left
            if number < len(wraps):
                top = block.cross + LANE * wraps[number] + 8
        block.cross += margin
        block.along = max(farthest + side + margin, title[0] + 2 * margin if self.landscape else 0.0)
        if bordered and not self.landscape:
            block.cross = max(block.cross, title[0] + 2 * margin)
        self.put_cells(name, rows, placed, block, blocks)
        self.put_lines(name, rows, links, placed, block)
        if bordered:
            block.frames[name] = (0.0, 0.0, block.cross, block.along)
            if self.landscape:
                block.titles[name] = (margin + title[1] / 2, margin + title[0] / 2)
        self.blocks[name] = block
        if name != ROOT:
            self.known[name, self.limits.across, self.limits.frame] = block
        return block

    def put_cells(
        self,
        name: str,
        rows: Sequence[Sequence[Cell]],
        placed: Sequence[Row],
        block: _Block,
        blocks: Mapping[str, _Block],
    ) -> None:
        for row, spot in zip(rows, placed, strict=True):
            for cell in row:
                middle = cell.at, start_of(cell, row, spot) + cell.along / 2
                if cell.kind == "box":
                    block.boxes[str(cell.key)] = middle
                elif cell.kind == "label":
                    block.labels[int(str(cell.key))] = middle
                elif cell.kind == "title":
                    block.titles[name] = middle
                elif cell.kind == "frame":
                    inner = blocks[str(cell.key)]
                    block.take(inner, cell.at - cell.cross / 2, middle[1] - cell.along / 2)

    def put_lines(
        self,
        name: str,
        rows: Sequence[Sequence[Cell]],
        links: Sequence[Sequence[Link]],
        placed: Sequence[Row],
        block: _Block,
    ) -> None:
        """Routes every line from its start to each of its ends in this frame."""
        joints = Joints(rows, links)
        turns = {
            i: Turn(links[i], joints, placed, i, rows)
            for i in range(len(links))
            if placed[i].line != placed[i + 1].line
        }
        for line, steps in paths(links).items():
            first = min(steps)
            for end_row, end in ends_of(steps):
                route = Route()
                cell = end
                hops = []
                for r in range(end_row - 1, first - 1, -1):
                    link = next(item for item in steps[r] if item.second is cell)
                    hops.append((r, link))
                    cell = link.first
                hops.reverse()
                self._start_route(name, route, hops[0], joints, placed, rows, block)
                for r, link in hops:
                    last = link.second is end and end.kind in ("box", "frame")
                    x = joints.enters(link)
                    spot = placed[r + 1]
                    stop = start_of(link.second, rows[r + 1], spot)
                    route.straight(route.end[0], placed[r].end)
                    if r in turns:
                        turns[r].route(route, link, x, spot.start)
                    else:
                        route.curve(x, min(spot.start, stop) - (6.0 if last and stop - spot.start < 6 else 0.0))
                    route.straight(x, stop if last else spot.end)
                leaving = end.kind not in ("box", "frame")
                if leaving:
                    route.straight(route.end[0], block.along)
                    block.exits[line] = route.end[0]
                block.pieces[name, int(str(line)), EXIT if leaving else str(end.key)] = route

    def _start_route(
        self,
        name: str,
        route: Route,
        hop: tuple[int, Link],
        joints: Joints,
        placed: Sequence[Row],
        rows: Sequence[Sequence[Cell]],
        block: _Block,
    ) -> None:
        r, link = hop
        x = joints.leaves(link)
        if link.first.kind in ("box", "frame"):
            route.move(x, start_of(link.first, rows[r], placed[r]) + link.first.along)
            return
        route.move(x, 0.0)
        block.entries[link.line] = x
