"""Rectangles and texts of a chart, as SVG or PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

INK, FAINT, BAR, SECOND = "#1f2328", "#656d76", "#4c78a8", "#f2a65a"
_SIZE = 12
_FONT = Path(__file__).resolve().parent.parent / "visualize" / "vendor" / "Inter-Regular.ttf"


@dataclass(frozen=True)
class Rect:
    """A filled rectangle, in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Text:
    """A line of text that starts, or ends, at a point of its base line."""

    x: float
    y: float
    text: str
    colour: str = INK
    size: int = _SIZE
    end: bool = False


def to_svg(shapes: Sequence[Rect | Text], width: float, height: float) -> str:
    """The shapes on white, as the text of an SVG file."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="Inter, Helvetica, Arial, sans-serif">',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
    ]
    for s in shapes:
        if isinstance(s, Rect):
            lines.append(f'<rect x="{s.x:.1f}" y="{s.y:g}" width="{s.width:.1f}" height="{s.height:g}" '
                         f'fill="{s.colour}"/>')  # fmt: skip
        else:
            anchor = ' text-anchor="end"' if s.end else ""
            lines.append(f'<text x="{s.x:.1f}" y="{s.y:g}" font-size="{s.size}" fill="{s.colour}"{anchor}>'
                         f"{escape(s.text)}</text>")  # fmt: skip
    return "\n".join([*lines, "</svg>"]) + "\n"


def to_png(shapes: Sequence[Rect | Text], width: float, height: float) -> bytes:
    """The shapes on white, as the bytes of a PNG file with two pixels for each unit."""
    from PIL import Image, ImageDraw, ImageFont

    scale = 2
    image = Image.new("RGB", (round(width * scale), round(height * scale)), "white")
    draw = ImageDraw.Draw(image)
    for s in shapes:
        if isinstance(s, Rect):
            box = [s.x * scale, s.y * scale, (s.x + s.width) * scale, (s.y + s.height) * scale]
            draw.rectangle(box, fill=s.colour)
        else:
            font = ImageFont.truetype(str(_FONT), s.size * scale)
            draw.text((s.x * scale, s.y * scale), s.text, s.colour, font, anchor="rs" if s.end else "ls")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
