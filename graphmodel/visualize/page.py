"""Writes the interactive page: one file, no network, every drawing inside, laid out by Graphviz beforehand."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from graphmodel.visualize import words
from graphmodel.visualize.dot import Orientation, to_dot
from graphmodel.visualize.layout import VENDOR, svg_of
from graphmodel.visualize.picture import Box, Frame, Picture
from graphmodel.visualize.svg import dark_rules, finish, font_faces

ASSETS = Path(__file__).parent / "assets"
MOST_BOXES = 700
"""Levels of detail with more boxes are left out of the page; nobody reads them and they take long to lay out."""


@dataclass(frozen=True)
class Level:
    """One level of detail."""

    name: str
    picture: Picture


@dataclass(frozen=True)
class View:
    """The model at one moment: before its passes, or after."""

    name: str
    levels: Sequence[Level]


def to_page(
    views: Sequence[View], *, level: str = "", theme: str = "auto", orientation: Orientation = "portrait"
) -> str:
    """The page.

    Args:
        views: the last one is shown first.
        level: the level of detail that is shown first; the first where empty.
        theme: `light`, `dark`, or `auto`, which follows the reader's system.
        orientation: of the drawings.
    """
    shown = [View(v.name, _worth_showing(v.levels, level)) for v in views]
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
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _hash(script: str) -> str:
    """The script's entry in the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _worth_showing(levels: Sequence[Level], asked: str) -> list[Level]:
    """Levels that differ from the one before and are small enough, and the one that is asked for."""
    found: list[Level] = []
    for item in levels:
        same = found and _boxes(found[-1].picture) == _boxes(item.picture)
        if item.name == asked and same:
            found[-1] = item
        elif item.name == asked or (not same and len(item.picture.boxes) <= MOST_BOXES):
            found.append(item)
    return found


def _boxes(picture: Picture) -> list[tuple[str, ...]]:
    return [b.members for b in picture.boxes]


def _level(item: Level, orientation: Orientation) -> dict[str, Any]:
    picture = item.picture
    numbers = {b.id: i for i, b in enumerate(picture.boxes)}
    drawn = finish(svg_of(to_dot(picture, orientation=orientation, title=False)), picture, fonts=False)
    return {
        "name": item.name,
        "svg": drawn,
        "lines": list(picture.lines),
        "boxes": [_box(b, picture) for b in picture.boxes],
        "frames": [_frame(f) for f in picture.frames],
        "arrows": [
            {"source": numbers[a.source], "target": numbers[a.target], "members": a.members} for a in picture.arrows
        ],
        "edges": picture.edges,
    }


def _box(box: Box, picture: Picture) -> dict[str, Any]:
    badges = [words.badge(b) for b in box.badges]
    told = box.card
    listed = [*told.get("paths", ()), *told.get("heads", ()), *told.get("outputs", ()), *told.get("classes", ())]
    text = [box.kind, box.title, *box.lines, *box.features, *badges, *listed]
    return {
        "kind": box.kind,
        "title": box.title,
        "lines": box.lines,
        "features": box.features,
        "badges": badges,
        "times": box.count if box.count > 1 else box.repeats,
        "ghost": box.ghost,
        "members": box.members,
        "card": told,
        "text": " ".join(text).lower(),
    }


def _frame(frame: Frame) -> dict[str, Any]:
    return {
        "kind": frame.kind,
        "title": frame.title,
        "lines": frame.lines,
        "badges": [words.badge(b) for b in frame.badges],
        "card": frame.card,
    }
