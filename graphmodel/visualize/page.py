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
from graphmodel.visualize.compose import compose
from graphmodel.visualize.dot import to_dot
from graphmodel.visualize.optimizations import optimizations_of
from graphmodel.visualize.picture import LEVELS, Box, Frame, Options, Orientation, Picture
from graphmodel.visualize.render import VENDOR, dark_rules, font_faces, to_svg

ASSETS = Path(__file__).parent / "assets"
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


def page_of(
    shown: ModelGraph | Picture,
    options: Options,
    *,
    theme: str = "auto",
    orientation: Orientation = "portrait",
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
    views = [View("after passes", _levels(shown, options))]
    if before and shown.history and not any(c.given for c in shown.components.values()):
        # The graph exists, so whatever code its spec names has been allowed.
        views.insert(0, View("before", _levels(build_graph(shown.spec, allow_imports=True), options)))
    return to_page(views, level=level, theme=theme, orientation=orientation)


def _levels(graph: ModelGraph, options: Options) -> list[Level]:
    flops, done = count_flops(graph), optimizations_of(graph)
    found = []
    for depth, name in enumerate(LEVELS):
        stack = 0 if name == "everything" else options.stack
        found.append(Level(name, compose(graph, replace(options, depth=depth, stack=stack), flops, done)))
    return found


def to_page(
    views: Sequence[View], *, level: str = "", theme: str = "auto", orientation: Orientation = "portrait"
) -> str:
    """The page.

    Args:
        views: the last one is shown first.
        level: the level of detail that is shown first; empty for the first.
        theme: `light`, `dark`, or `auto`, which follows the reader's system.
        orientation: of the drawings.
    """
    shown = [View(v.name, worth_showing(v.levels, level)) for v in views]
    names = [item.name for item in shown[-1].levels]
    data = {
        "theme": theme,
        "level": names.index(level) if level in names else 0,
        "views": [{"name": v.name, "levels": [_level(item, orientation) for item in v.levels]} for v in shown],
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


def _level(item: Level, orientation: Orientation) -> dict[str, Any]:
    picture = item.picture if item.is_drawn else Picture(item.picture.title)
    numbers = {b.id: i for i, b in enumerate(picture.boxes)}
    drawn = ""
    if item.is_drawn:
        drawn = to_svg(to_dot(picture, orientation=orientation, title=False), picture, fonts=False)
    return {
        "name": item.name,
        "svg": drawn,
        "lines": list(picture.lines),
        "boxes": [_box(b) for b in picture.boxes],
        "frames": [_frame(f) for f in picture.frames],
        "arrows": [
            {"source": numbers[a.source], "target": numbers[a.target], "members": a.members} for a in picture.arrows
        ],
        "edges": picture.edges,
    }


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
