"""What the boxes of a page contain: a drawing for each kind of block, which the page puts into a box that is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from graphmodel.graph.text import info_text
from graphmodel.graph.types import ModelGraph, Node
from graphmodel.visualize.compose import compose_inside
from graphmodel.visualize.fit import draw_placed
from graphmodel.visualize.inside import graph_inside
from graphmodel.visualize.picture import Box
from graphmodel.visualize.render import to_svg

WINDOW = (900.0, 520.0)
"""The shape that an opened block should have."""
MOST = 80
"""Drawings in a page; blocks beyond them stay closed."""
PATH = "\x01"
"""Stands for the path of the block in the texts of its drawing, which blocks of the same kind share."""


class Blocks:
    """The drawings of a page's blocks.

    Args:
        plain: makes plain data of a box.
    """

    def __init__(self, plain: Callable[[Box], dict[str, Any]]) -> None:
        self.plain = plain
        self.drawings: list[dict[str, Any]] = []
        self.known: dict[Hashable, int | None] = {}

    def of(self, graph: ModelGraph, box: Box) -> dict[str, Any]:
        """What a box contains: the number of its drawing and its path; empty if it cannot be opened."""
        calls = [graph.nodes[m] for m in box.members if m in graph.nodes and graph.nodes[m].call == "module"]
        if box.kind != "stage" or box.ghost or not calls or len({c.target for c in calls}) > 1:
            return {}
        if len({c.scope for c in calls}) < len(calls):
            return {}
        number = self.drawing(graph, calls[0])
        return {} if number is None else {"block": number, "path": str(calls[0].target)}

    def drawing(self, graph: ModelGraph, node: Node) -> int | None:
        """The number of a call's drawing, which calls of equal modules on equal shapes share."""
        module = graph.module_of(node)
        if module is None or not node.refs():
            return None
        shapes = tuple((name, type(m).__name__) for name, m in module.named_modules())
        parameters = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
        key = shapes, parameters, info_text(graph.nodes[node.refs()[0]].info), str(node.facts.of_call())
        if key not in self.known:
            self.known[key] = None  # a module inside of itself ends here
            self.known[key] = self.drawn(graph, node)
        return self.known[key]

    def drawn(self, graph: ModelGraph, node: Node) -> int | None:
        """Draws what a call contains."""
        inside = graph_inside(graph, node) if len(self.drawings) < MOST else None
        if inside is None:
            return None
        picture = compose_inside(inside)
        names = {"input": "in", "output": "out"}
        boxes = [
            replace(b, title=names.get(b.kind, b.title), lines=() if b.kind == "input" else b.lines)
            for b in picture.boxes
        ]
        boxes = [replace(b, title=b.title.removeprefix(f"{node.path}."), frame="") for b in boxes]
        picture = replace(picture, boxes=tuple(boxes), frames=())
        number = len(self.drawings)
        self.drawings.append({})
        drawing = draw_placed(picture, title=False, legend=False, window=WINDOW)
        numbers = {b.id: i for i, b in enumerate(boxes)}
        data = {
            "svg": to_svg(drawing.dot, picture, fonts=False),
            "boxes": [{**self.plain(b), **self.of(inside, b)} for b in boxes],
            "arrows": [{"source": numbers[a.source], "target": numbers[a.target]} for a in picture.arrows],
        }
        text = json.dumps(data).replace(json.dumps(str(node.target))[1:-1], json.dumps(PATH)[1:-1])
        self.drawings[number] = json.loads(text)
        return number
