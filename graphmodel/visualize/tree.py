"""The frames of a picture as a tree, and its arrows in bundles that carry one value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from graphmodel.visualize.picture import Picture

ROOT = ""
"""The whole picture, as a frame."""


@dataclass(frozen=True)
class Bundle:
    """Arrows that carry one value: they have one label, and run together as far as they can.

    Attributes:
        number: its position.
        arrows: numbers of the arrows.
        root: the innermost frame around all of its ends, which contains its label.
    """

    number: int
    arrows: tuple[int, ...]
    source: str
    targets: tuple[str, ...]
    root: str


class Tree:
    """The frames of a picture, and what lies in which.

    A frame that would have to come before and after another one is left out; its boxes belong to what surrounds it.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.parent = {f.id: f.parent for f in picture.frames}
        self.frame_of = {b.id: b.frame for b in picture.boxes}
        self.visible = set(self.parent)
        if self.parent:
            self._join_outputs()
        while (cycle := self._cycle()) is not None:
            for box, frame in list(self.frame_of.items()):
                if frame == cycle:
                    self.frame_of[box] = self.parent[cycle]
            self.parent = {k: self.parent[cycle] if v == cycle else v for k, v in self.parent.items() if k != cycle}
            self.visible.discard(cycle)

    def _join_outputs(self) -> None:
        """Makes a group of each box and the outputs that read only it: they follow at once, even beside tall frames."""
        readers: dict[str, set[str]] = defaultdict(set)
        sources: dict[str, set[str]] = defaultdict(set)
        for arrow in self.picture.arrows:
            readers[arrow.source].add(arrow.target)
            sources[arrow.target].add(arrow.source)
        outputs = {b.id for b in self.picture.boxes if b.kind == "output"}
        for box in self.picture.boxes:
            found = readers[box.id]
            if found and found <= outputs and not box.frame and all(sources[o] == {box.id} for o in found):
                group = f"~{box.id}"
                self.parent[group] = ROOT
                self.frame_of |= dict.fromkeys((box.id, *found), group)

    def shown(self, frame: str) -> str:
        """The frame, or the one around it if it has no border."""
        return frame if frame in self.visible or frame == ROOT else self.shown(self.parent[frame])

    def _cycle(self) -> str | None:
        """A frame that makes a cycle."""
        for inside in ("", *self.parent):
            network: nx.DiGraph[str] = nx.DiGraph(self.edges(inside))
            if not nx.is_directed_acyclic_graph(network):
                return next(str(n) for n, _ in nx.find_cycle(network) if n in self.parent)
        return None

    def above(self, item: str) -> str:
        """The frame around a box or frame."""
        return self.parent[item] if item in self.parent else self.frame_of[item]

    def chain(self, item: str) -> list[str]:
        """The item, and the frames around it from the inside out; the last one is the whole picture."""
        found = [item]
        while found[-1] != ROOT:
            found.append(self.above(found[-1]))
        return found

    def child(self, frame: str, item: str) -> str | None:
        """What contains an item directly inside of a frame; None if it lies elsewhere."""
        chain = self.chain(item)
        return chain[chain.index(frame) - 1] if frame in chain[1:] else None

    def children(self, frame: str) -> list[str]:
        """What lies directly in a frame, in the order of execution."""
        return list(dict.fromkeys(c for b in self.picture.boxes if (c := self.child(frame, b.id)) is not None))

    def edges(self, frame: str) -> list[tuple[str, str]]:
        """Which of them read which."""
        pairs = ((self.child(frame, a.source), self.child(frame, a.target)) for a in self.picture.arrows)
        return [(s, t) for s, t in pairs if s is not None and t is not None and s != t]

    def around(self, items: Sequence[str]) -> str:
        """The innermost frame around all of these boxes."""
        chains = [self.chain(item)[1:] for item in items]
        return next(frame for frame in chains[0] if all(frame in chain for chain in chains))

    @cached_property
    def bundles(self) -> list[Bundle]:
        """The arrows, bundled."""
        found: dict[Hashable, list[int]] = defaultdict(list)
        for i, arrow in enumerate(self.picture.arrows):
            root = self.around([arrow.source, arrow.target])
            found[arrow.source, arrow.lines, arrow.flow, arrow.state, arrow.ghost, root].append(i)
        arrows = self.picture.arrows
        return [
            Bundle(n, tuple(each), arrows[each[0]].source, tuple(arrows[i].target for i in each), key[-1])  # type: ignore[index]
            for n, (key, each) in enumerate(found.items())
        ]
