"""Renders DOT with Graphviz, which pygraphviz brings along, and finishes the SVG: fonts, tooltips, dark mode."""

from __future__ import annotations

import base64
import json
import re
from functools import cache, lru_cache
from importlib.util import find_spec
from xml.etree import ElementTree

from graphmodel.diagnostics import fail
from graphmodel.visualize.dot import printable
from graphmodel.visualize.graphviz import VENDOR, kept_running
from graphmodel.visualize.legend import tooltip
from graphmodel.visualize.palette import PALETTE
from graphmodel.visualize.picture import Picture

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
Size = tuple[float, float]


@lru_cache(maxsize=64)
def measure(dot: str) -> dict[str, tuple[float, float]]:
    """Width and height in points of each node by its `id`, or its name if it has none.

    Args:
        dot: nodes without edges.

    Raises:
        CompileError: as `render`.
    """
    objects = json.loads(render(dot, "json0", program="dot"))["objects"]
    return {o.get("id", o["name"]): (float(o["width"]) * 72, float(o["height"]) * 72) for o in objects if "width" in o}


def render(dot: str, format: str, *, dpi: int = 200, program: str = "nop2", size: Size | None = None) -> bytes:
    """The drawing as Graphviz makes it.

    Args:
        dot: the text of a picture.
        format: `svg`, `png` or `pdf`.
        dpi: the resolution of a PNG.
        program: what lays it out; `nop2` leaves everything where it is.
        size: width and height that a PNG or PDF is scaled to, in points; that of the drawing if None.

    Raises:
        CompileError: GM530 if pygraphviz is missing or Graphviz fails.
    """
    if find_spec("pygraphviz") is None:
        raise fail("GM530", "pygraphviz is not installed", help="pip install 'graphmodel[visualize]'")
    args = [f"-Gdpi={dpi}"] if format == "png" else []
    args += [f"-Gsize={size[0] / 72:.4f},{size[1] / 72:.4f}!"] if size is not None else []
    with kept_running() as graphviz:
        return graphviz.draw(dot, format, program, " ".join(args))


def to_svg(dot: str, picture: Picture, *, fonts: bool = True, follow: bool = False, size: Size | None = None) -> str:
    """The drawing as SVG with its font, tooltips and a class for each kind of part.

    Args:
        dot: the picture as DOT, in the light palette if `follow`.
        picture: the picture.
        fonts: whether to embed the fonts, which adds 50 kB.
        follow: whether colours change with the reader's dark mode.
        size: width and height on paper, in points; that of the drawing if None.

    Raises:
        CompileError: as `render`.
    """
    drawn = render(dot, "svg").decode()
    root = ElementTree.fromstring(re.sub(r"<!--.*?-->\n?", "", drawn[drawn.index("<svg") :], flags=re.S))
    if size is not None:
        for name, points in zip(("width", "height"), size, strict=True):
            root.set(name, f"{points / 72 * 25.4:.3f}mm")
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
        element.text = (element.text or "").rstrip("\xa0")  # spare room for Graphviz
    # Otherwise browsers round the widths of small letters up, and long lines leave their boxes.
    rules = ["text{text-rendering:geometricPrecision}"]
    rules += [font_faces()] if fonts else []
    rules += [dark_rules("@media (prefers-color-scheme: dark)")] if follow else []
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = "".join(rules)
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@cache
def font_faces() -> str:
    """CSS that embeds the fonts."""
    rules = []
    for name, weight in (("Regular", "normal"), ("SemiBold", "bold")):
        data = base64.b64encode((VENDOR / f"Inter-{name}.woff2").read_bytes()).decode()
        source = f"url(data:font/woff2;base64,{data}) format('woff2')"
        rules.append(f"@font-face{{font-family:Inter;font-weight:{weight};src:{source}}}")
    return "".join(rules)


def dark_rules(condition: str) -> str:
    """CSS that replaces each light colour by the dark one.

    Args:
        condition: a media query, or a selector of an element around the drawing.
    """
    rules = []
    inside = "" if condition.startswith("@") else f"{condition} "
    for light, dark in PALETTE.values():
        rules.append(f'{inside}[fill="{light}"]{{fill:{dark}}}{inside}[stroke="{light}"]{{stroke:{dark}}}')
    return f"{condition}{{{''.join(rules)}}}" if condition.startswith("@") else "".join(rules)
