"""Finishes Graphviz's SVG: it carries its font, tells on hover what a part is, and may follow the dark mode."""

from __future__ import annotations

import base64
import re
from functools import cache
from xml.etree import ElementTree

from graphmodel.visualize.dot import printable, tooltip
from graphmodel.visualize.layout import VENDOR
from graphmodel.visualize.picture import Picture
from graphmodel.visualize.theme import DARK, LIGHT

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def finish(drawn: str, picture: Picture, *, fonts: bool = True, follow: bool = False) -> str:
    """The drawing for readers.

    Args:
        drawn: what Graphviz wrote.
        picture: what it drew.
        fonts: whether the font goes into the file, which adds 50 kB.
        follow: whether colours change with the reader's dark mode; the drawing must be in light colours.
    """
    root = ElementTree.fromstring(drawn)
    root.set("role", "img")
    root.set("aria-label", printable(picture.title))
    boxes, frames, arrows = picture.boxes, picture.frames, picture.arrows
    for group in root.iter(f"{{{SVG}}}g"):
        title = group.find(f"{{{SVG}}}title")
        kind, _, number = group.get("id", "").partition("-")
        classes = group.get("class", "").split()
        text = ""
        if kind == "b":
            text = tooltip(boxes[int(number)])
        elif kind == "f":
            text = frames[int(number.rstrip("l"))].title
        elif "arrow" in classes or "arrow-text" in classes:
            arrow = arrows[int(next(c for c in classes if re.fullmatch(r"a\d+", c))[1:])]
            text = " ".join(arrow.lines)
            group.attrib.pop("id", None)
        elif "graph" in classes:
            text = picture.title
        else:
            group.attrib.pop("id", None)
        if title is not None:
            title.text = "\n".join(map(printable, text.splitlines()))
            if not text:
                group.remove(title)
    for element in root.iter(f"{{{SVG}}}text"):
        element.text = (element.text or "").rstrip("\xa0")  # spare room for Graphviz, none of the reader's business
    # Browsers else round the widths of small letters up, and long lines leave their boxes.
    precise = "text{text-rendering:geometricPrecision}"
    rules = (
        precise
        + (font_faces() if fonts else "")
        + (dark_rules("@media (prefers-color-scheme: dark)") if follow else "")
    )
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = rules
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@cache
def font_faces() -> str:
    """CSS that carries the font."""
    rules = []
    for name, weight in (("Regular", "normal"), ("SemiBold", "bold")):
        data = base64.b64encode((VENDOR / f"Inter-{name}.woff2").read_bytes()).decode()
        source = f"url(data:font/woff2;base64,{data}) format('woff2')"
        rules.append(f"@font-face{{font-family:Inter;font-weight:{weight};src:{source}}}")
    return "".join(rules)


def dark_rules(condition: str) -> str:
    """CSS that replaces each light colour by its dark one.

    Args:
        condition: a media query, or a selector that the drawing lies in.
    """
    rules = []
    inside = "" if condition.startswith("@") else f"{condition} "
    for role, light in LIGHT.items():
        rules.append(f'{inside}[fill="{light}"]{{fill:{DARK[role]}}}{inside}[stroke="{light}"]{{stroke:{DARK[role]}}}')
    return f"{condition}{{{''.join(rules)}}}" if condition.startswith("@") else "".join(rules)
