"""Writes the interactive page: one file with every drawing inside, laid out by Graphviz beforehand; no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from graphmodel.build.build import build_graph
from graphmodel.graph.types import ModelGraph
from graphmodel.profiling.flops import count_flops
from graphmodel.visualize import labels
from graphmodel.visualize.blocks import Blocks
from graphmodel.visualize.compose import compose
from graphmodel.visualize.dot import to_dot
from graphmodel.visualize.fit import draw_placed
from graphmodel.visualize.graphviz import VENDOR, kept_running
from graphmodel.visualize.optimizations import optimizations_of
from graphmodel.visualize.palette import LIGHT
from graphmodel.visualize.picture import LEVELS, Box, Frame, Options, Orientation, Picture
from graphmodel.visualize.render import dark_rules, font_faces, to_svg

ASSETS = Path(__file__).parent / "assets"
WINDOWS = ((1380.0, 770.0), (380.0, 640.0))
"""The windows that drawings are made for: a screen's and a phone's."""
MOST_IN_COLUMN = 60
"""A drawing with more boxes is made for screens only."""
MOST_BOXES = 700
"""Levels of detail with more boxes are left out of the page; they are unreadable and take long to lay out."""


@dataclass(frozen=True)
class Level:
    """One level of detail.

    Attributes:
        name: what its button says.
        picture: what it shows.
        is_drawn: whether the page has its drawing; a page that will soon be replaced may have that of one level and
            only the names of the others.
    """

    name: str
    picture: Picture
    is_drawn: bool = True


@dataclass(frozen=True)
class View:
    """The model before its passes, or after."""

    name: str
    levels: Sequence[Level]
    graph: ModelGraph | None = None


def page_of(
    shown: ModelGraph | Picture,
    options: Options,
    *,
    theme: str = "auto",
    orientation: Orientation | None = None,
    before: bool = True,
) -> str:
    """The page of a graph, before and after its passes and at every level of detail, or of one picture.

    Args:
        shown: a graph, or a picture, which is shown as it is.
        options: what to show; `depth` is the level shown first.
        theme: as for `to_page`.
        orientation: as for `to_page`.
        before: whether the graph before its passes is shown too, which takes as long again.
    """
    level = LEVELS[max(0, min(options.depth, len(LEVELS) - 1))]
    if isinstance(shown, Picture):
        return to_page([View("", [Level(level, shown)])], level=level, theme=theme, orientation=orientation)
    views = [View("after passes", _levels(shown, options), shown)]
    if before and shown.history and not any(c.given for c in shown.components.values()):
        # The graph exists, so whatever code its spec names has been allowed.
        unchanged = build_graph(shown.spec, allow_imports=True)
        views.insert(0, View("before", _levels(unchanged, options), unchanged))
    return to_page(views, level=level, theme=theme, orientation=orientation)


def _levels(graph: ModelGraph, options: Options) -> list[Level]:
    flops, done = count_flops(graph), optimizations_of(graph)
    found = []
    # A click opens single stages, so that a level with all layers is only made if it is asked for.
    for depth, name in enumerate(LEVELS[: max(3, options.depth + 1)]):
        stack = options.stack if depth < 2 else 0
        found.append(Level(name, compose(graph, replace(options, depth=depth, stack=stack), flops, done)))
    return found


@kept_running()
def to_page(
    views: Sequence[View], *, level: str = "", theme: str = "auto", orientation: Orientation | None = None
) -> str:
    """The page.

    Args:
        views: the last one is shown first.
        level: the level of detail that is shown first; empty for the first.
        theme: `light`, `dark`, or `auto`, which follows the reader's system.
        orientation: of the drawings.
    """
    shown = [replace(v, levels=worth_showing(v.levels, level)) for v in views]
    blocks, drawn = Blocks(_box), dict[str, list[str]]()
    names = [item.name for item in shown[-1].levels]
    data = {
        "theme": theme,
        "level": names.index(level) if level in names else 0,
        "views": [
            {"name": v.name, "levels": [_level(i, orientation, v.graph, blocks, drawn) for i in v.levels]}
            for v in shown
        ],
        "blocks": blocks.drawings,
        "ground": LIGHT["stage_frame"],
    }
    panzoom = (VENDOR / "svg-pan-zoom.min.js").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(shown[-1].levels[0].picture.title),
        hashes=" ".join(_hash(s) for s in (panzoom, script)),
        fonts=font_faces(),
        css=(ASSETS / "page.css").read_text(encoding="utf-8") + dark_rules(":root.dark"),
        data=embedded(data),
        panzoom=panzoom,
        script=script,
    )


def embedded(data: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _hash(script: str) -> str:
    """The script's entry in the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def worth_showing(levels: Sequence[Level], asked: str) -> list[Level]:
    """The requested level, those that are not drawn, and those that differ from the one before and are small enough."""
    found: list[Level] = []
    for item in levels:
        same = found and _boxes(found[-1].picture) == _boxes(item.picture)
        if item.name == asked and same:
            found[-1] = item
        elif not item.is_drawn or item.name == asked or (not same and len(item.picture.boxes) <= MOST_BOXES):
            found.append(item)
    return found


def _boxes(picture: Picture) -> list[tuple[str, ...]]:
    return [b.members for b in picture.boxes]


def _level(
    item: Level, orientation: Orientation | None, graph: ModelGraph | None, blocks: Blocks, drawn: dict[str, list[str]]
) -> dict[str, Any]:
    picture = item.picture if item.is_drawn else Picture(item.picture.title)
    numbers = {b.id: i for i, b in enumerate(picture.boxes)}
    windows = WINDOWS if len(picture.boxes) <= MOST_IN_COLUMN else WINDOWS[:1]
    key = to_dot(picture) if item.is_drawn else ""
    if key not in drawn:  # often nothing that is drawn differs before and after the passes
        drawn[key] = [_svg(picture, orientation, window) for window in windows] if key else []
    return {
        "name": item.name,
        "svgs": drawn[key],
        "lines": list(picture.lines),
        "boxes": [{**_box(b), **(blocks.of(graph, b) if graph is not None else {})} for b in picture.boxes],
        "frames": [_frame(f) for f in picture.frames],
        "arrows": [
            {"source": numbers[a.source], "target": numbers[a.target], "members": a.members} for a in picture.arrows
        ],
        "edges": picture.edges,
    }


def _svg(picture: Picture, orientation: Orientation | None, window: tuple[float, float]) -> str:
    drawing = draw_placed(picture, orientation=orientation, title=False, window=window)
    return to_svg(drawing.dot, picture, fonts=False)


def _box(box: Box) -> dict[str, Any]:
    badges = [labels.badge(b) for b in box.badges]
    listed = [name for key in ("paths", "heads", "outputs", "classes") for name in box.card.get(key, ())]
    text = [box.kind, box.title, *box.lines, *box.features, *badges, *listed]
    return {
        "id": box.id,
        "kind": box.kind,
        "title": box.title,
        "lines": box.lines,
        "features": box.features,
        "badges": badges,
        "times": box.count if box.count > 1 else box.repeats,
        "ghost": box.ghost,
        "members": box.members,
        "card": box.card,
        "text": " ".join(text).lower(),
    }


def _frame(frame: Frame) -> dict[str, Any]:
    return {
        "kind": frame.kind,
        "title": frame.title,
        "lines": frame.lines,
        "badges": [labels.badge(b) for b in frame.badges],
        "card": frame.card,
    }
