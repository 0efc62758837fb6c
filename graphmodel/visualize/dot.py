"""Writes a picture as DOT in a light or dark palette: for Graphviz to lay out, or with everything in its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from graphmodel.visualize import labels
from graphmodel.visualize.labels import folded
from graphmodel.visualize.legend import legend_entries
from graphmodel.visualize.palette import DARK, LIGHT, fill_role, flow_role, frame_roles
from graphmodel.visualize.picture import Arrow, Box, Frame, Orientation, Picture
from graphmodel.visualize.places import Layout
from graphmodel.visualize.routes import Point
from graphmodel.visualize.tree import Bundle, Tree

FONT = "Inter,Helvetica,Arial,sans-serif"
"""Inter is part of the package; the others serve programs that ignore the font inside an SVG."""

FILLER = '<td cellpadding="0"></td>' * 40
"""Graphviz divides spare width evenly among the cells of a row; these take nearly all of it."""
PAD = 10.8
"""Empty space around a drawing, in points."""
SMALLEST = 8.0
"""The size of the smallest text, in points."""
ARROW = 5.5
"""The length of an arrow's head."""
WIDEST = 58
"""Letters in a line of a wide box."""
TALLEST = 19
"""Letters in a line of a tall box."""
Form = Literal["", "wide", "tall"]
MARKS = {"added": "+ ", "removed": "− ", "changed": "~ "}


def to_dot(
    picture: Picture,
    *,
    theme: str = "light",
    orientation: Orientation = "portrait",
    legend: bool = True,
    title: bool = True,
) -> str:
    """The picture in Graphviz's language, without positions.

    Args:
        picture: what to draw.
        theme: `light` or `dark`.
        orientation: `portrait` draws from top to bottom, `landscape` from left to right.
        legend: whether to explain the colours and badges that occur.
        title: whether to write the model's name and totals above.
    """
    return Writer(picture, theme).plain(orientation, legend, title)


def printable(text: str) -> str:
    """Text with a space for each unprintable character: XML allows few of them, and some reverse the text."""
    return "".join(c if c.isprintable() else " " for c in text)


def quoted(text: str) -> str:
    """A DOT string."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(text: str) -> str:
    """Text inside an HTML-like label."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


class Writer:
    """Writes the parts of a picture.

    Args:
        picture: what to draw.
        theme: `light` or `dark`.
        form: `wide` boxes are low, with their lines joined; `tall` ones are narrow, with their lines broken.
        room: how wide the heading and the legend may get, in points.
    """

    def __init__(self, picture: Picture, theme: str, *, form: Form = "", room: float = 480.0) -> None:
        self.picture, self.colours, self.form, self.room = picture, LIGHT if theme == "light" else DARK, form, room
        self.tree = Tree(picture)
        self.numbers = {b.id: i for i, b in enumerate(picture.boxes)}
        self.frames = {f.id: f for f in picture.frames}

    def plain(self, orientation: Orientation, legend: bool, title: bool) -> str:
        """The picture without positions."""
        c = self.colours
        lines = self.start(rankdir="LR" if orientation == "landscape" else "TB", nodesep="0.22", ranksep="0.3")
        lines.append('  subgraph cluster_picture {\n    pencolor="transparent"; bgcolor="transparent"; margin=6;')
        lines.append(f'    labelloc="t"; label=<{self.heading()}>;' if title else '    label="";')
        lines += self.cluster("")
        for i, arrow in enumerate(self.picture.arrows):
            rows = self.arrow_text(arrow)
            text = f", label=<{rows}>" if rows else ""
            lines.append(
                f"    {quoted(arrow.source)} -> {quoted(arrow.target)} [{_attributes(self.line(arrow, i))}{text}];"
            )
        lines.append("  }")
        if legend:
            lines.append(f'  labelloc="b"; labeljust="l"; label=<{self.legend()}>; fontcolor={quoted(c["text"])};')
        return "\n".join([*lines, "}", ""])

    def cluster(self, inside: str) -> list[str]:
        """The boxes of a frame and its inner frames."""
        lines = []
        for id in self.tree.children(inside):
            if id in self.tree.visible:
                text = self.frame_text(self.frames[id])
                head = f"subgraph {quoted(f'cluster_{id}')} {{ graph [{_attributes(self.frame(id))}, label=<{text}>];"
                lines += [f"    {head}", *self.cluster(id), "    }"]
            elif id in self.tree.parent:
                lines += self.cluster(id)
            else:
                lines.append(f"    {self.box(self.picture.boxes[self.numbers[id]])}")
        return lines

    def parts(self, legend: bool, title: bool) -> str:
        """Everything with text as nodes without edges, for Graphviz to measure."""
        lines = [*self.start(), *(f"  {self.box(b)}" for b in self.picture.boxes)]
        lines += [f"  {self.frame_label(id)}" for id in self.tree.parent if id in self.tree.visible]
        lines += [f"  {text}" for b in self.tree.bundles if (text := self.label(b))]
        lines += [f'  heading [shape=plain, style="", label=<{self.heading()}>];'] if title else []
        lines += [f'  legend [shape=plain, style="", label=<{self.legend()}>];'] if legend else []
        return "\n".join([*lines, "}", ""])

    def placed(self, layout: Layout, corners: tuple[Point, Point], around: dict[str, Point]) -> str:
        """The picture with everything in its place, for Graphviz's `nop2`.

        Args:
            layout: the places.
            corners: the upper left and the lower right corner of the paper.
            around: the middle of the heading and of the legend, if they are shown.
        """
        lines = self.start(outputorder="edgesfirst")
        for name, (x, y) in zip(("corner0", "corner1"), corners, strict=True):
            lines.append(f'  {name} [shape=point, style=invis, width=0, height=0, label="", pos="{_at(x, y)}"];')
        for name, (x, y) in around.items():
            text = self.heading() if name == "heading" else self.legend()
            lines.append(f'  {name} [shape=plain, style="", class={name}, pos="{_at(x, y)}", label=<{text}>];')
        lines += self.placed_frames("", layout)
        for box in self.picture.boxes:
            lines.append(f"  {self.box(box, pos=_at(*layout.boxes[box.id]))}")
        lines += [
            f"  {self.label(b, pos=_at(*layout.labels[b.number]))}"
            for b in self.tree.bundles
            if b.number in layout.labels
        ]
        for i, (arrow, points) in enumerate(zip(self.picture.arrows, layout.arrows, strict=True)):
            pos = _spline(points)
            attributes = _attributes(self.line(arrow, i) | {"pos": pos})
            lines.append(f"  {quoted(arrow.source)} -> {quoted(arrow.target)} [{attributes}];")
        return "\n".join([*lines, "}", ""])

    def placed_frames(self, inside: str, layout: Layout) -> list[str]:
        """The frames in a frame with their borders and titles."""
        lines = []
        for id in self.tree.children(inside):
            if id in self.tree.visible:
                left, top, right, bottom = layout.frames[id]
                attributes = _attributes(self.frame(id) | {"bb": f"{_at(left, bottom)},{_at(right, top)}", "label": ""})
                lines += [
                    f"  subgraph {quoted(f'cluster_{id}')} {{ graph [{attributes}];",
                    f"  {self.frame_label(id, pos=_at(*layout.titles[id]))}",
                    *self.placed_frames(id, layout),
                    "  }",
                ]
        return lines

    def start(self, **graph: str) -> list[str]:
        """The first lines: what holds for every part."""
        c = self.colours
        graph = {
            "bgcolor": c["paper"],
            "fontname": FONT,
            "fontcolor": c["text"],
            "pad": str(PAD / 72),
            "margin": "0",
            **graph,
        }
        return [
            f"digraph picture {{\n  graph [{_attributes(graph)}];",
            f'  node [shape=box, style="rounded,filled", fontname={quoted(FONT)}, fontsize=11, penwidth=1.1, '
            'margin="0.09,0.055", height=0.3, width=0.4];',
            f"  edge [fontname={quoted(FONT)}, fontsize=8, fontcolor={quoted(c['shape'])}, "
            f"color={quoted(c['arrow'])}, arrowsize=0.55, penwidth=1.1];",
        ]

    # -- text ---------------------------------------------------------------------------------------------------------

    def font(self, text: str, size: int, role: str, bold: bool = False) -> str:
        spare = "&#160;" if len(text) > 20 else ""  # Graphviz measures long lines one percent short
        inner = f"<b>{escaped(text)}{spare}</b>" if bold else f"{escaped(text)}{spare}"
        return f'<font point-size="{size}" color="{self.colours[role]}">{inner}</font>'

    def pill(self, text: str, role: str, line: str) -> str:
        """A small filled label inside another."""
        return (
            f'<td align="right"><table border="1" cellborder="0" cellspacing="0" cellpadding="1" style="rounded" '
            f'bgcolor="{self.colours[role]}" color="{self.colours[line]}"><tr><td>'
            f"{self.font(f' {text} ', 8, f'{role}_text')}</td></tr></table></td>"
        )

    def pills(self, features: Iterable[str], badges: Iterable[str]) -> str:
        found = [self.pill(labels.cut(f, 20), "feature", "feature") for f in features]
        found += [self.pill(labels.badge(b), "badge", "badge_line") for b in badges]
        return '<td width="7"></td>'.join(["", *found])

    def row(self, *cells: str) -> str:
        """Cells side by side: the first on the left, the others on the right."""
        first, *others = cells
        return (
            '<tr><td><table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr>'
            f"{first}{FILLER}{''.join(others)}</tr></table></td></tr>"
        )

    def heading(self) -> str:
        spare = '<td width="30"></td>'
        name = self.font(labels.cut(self.picture.title, 60), 15, "text", bold=True)
        rows = [f'<tr><td align="left">{name}</td>{spare}</tr>']
        lines = [part for line in self.picture.lines for part in folded(line, self.room / 5.2)]
        rows += [f'<tr><td align="left">{self.font(line, 9, "muted")}</td>{spare}</tr>' for line in lines]
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{"".join(rows)}</table>'

    def legend(self) -> str:
        entries, room = [], int(self.room / 5.6)
        for role, text in legend_entries(self.picture):
            swatch = role if f"{role}_line" in self.colours else ""
            if swatch:
                space = '<tr><td height="0"></td></tr>' * 12
                mark = (
                    f'<td><table border="0" cellborder="0" cellspacing="0" cellpadding="0">{space}<tr><td border="1" '
                    f'color="{self.colours[f"{role}_line"]}" bgcolor="{self.colours[role]}" width="12" height="7"></td>'
                    f"</tr>{space}</table></td>"
                )
            elif role in self.colours and role.startswith("flow"):
                mark = f"<td>{self.font('—', 10, role, bold=True)}</td>"
            else:
                mark = self.pill(role, "feature" if role == "feature" else "badge", "badge_line")
            lines = folded(text, room - len(role) - 2, " ") if len(text) > room else [text]
            end = '<br align="left"/>' if len(lines) > 1 else ""
            texts = "".join(self.font(line, 8, "muted") + end for line in lines)
            entries.append((len(lines[0]) + 5, f'{mark}<td align="left">{texts}</td>'))
        rows = [[]]  # type: list[list[str]]
        left = room
        for length, entry in entries:
            if length > left and rows[-1]:
                rows.append([])
                left = room
            rows[-1].append(entry)
            left -= length
        table = '<table border="0" cellborder="0" cellspacing="0" cellpadding="2"><tr>{}</tr></table>'
        inner = [f'<td align="left">{table.format("<td> </td>".join(row))}</td>{FILLER}' for row in rows if row]
        lines = [f'<tr><td align="left">{table.format(row)}</td></tr>' for row in inner]
        body = "".join(lines) or "<tr><td></td></tr>"
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0">{body}</table>'

    # -- parts --------------------------------------------------------------------------------------------------------

    def box(self, box: Box, **place: str) -> str:
        """A box as a node."""
        role = fill_role(box)
        line = self.colours[f"{role}_line"]
        strong, quiet = ("ghost_text", "ghost_text") if box.ghost else ("text", "muted")
        size = 10 if box.kind in ("op", "output") else 11
        title = folded(box.title, TALLEST) if self.form == "tall" and box.kind == "stage" else [box.title]
        named = [
            self.font(t, size, strong, bold=box.kind != "op") for t in [MARKS.get(box.state, "") + title[0], *title[1:]]
        ]
        name = '<br align="left"/>'.join(named) + ('<br align="left"/>' if len(named) > 1 else "")
        many = box.count if box.count > 1 else box.repeats
        times = f'<td width="9"></td><td>{self.font(f"×{many}", 11, strong, bold=True)}</td>' if many > 1 else ""
        pills = self.pills(box.features, self.picture.badges_of(box))
        below = self.form and pills and len(box.title) + sum(len(p) + 4 for p in box.features) > 24
        sums = labels.totals(box.parameters, box.flops)
        rest = [(line, 9) for line in box.lines] + ([(sums, 8)] if sums else [])
        together = " · ".join(text for text, _ in rest)
        aside = ""
        if self.form == "tall":
            rest = [(part, size) for text, size in rest for part in folded(text, TALLEST)]
        elif self.form and rest and not pills and 1.4 * len(box.title) + len(together) <= WIDEST - 8:
            aside, rest = f'<td width="9"></td><td>{self.font(together, 8, quiet)}</td>', []
        elif self.form and len(rest) > 1 and len(together) <= WIDEST:
            rest = [(together, 8)]
        first = self.row(f'<td align="left">{name}</td>', aside, times, "" if below else pills)
        if below:
            first += self.row(*pills.split('<td width="7"></td>')[1:])
        rows = [f'<tr><td align="left">{self.font(text, points, quiet)}</td></tr>' for text, points in rest]
        text = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{first}{"".join(rows)}</table>'
        attributes = {
            "id": f"b-{self.numbers[box.id]}",
            "class": f"box {box.kind}",
            "fillcolor": self.colours[role],
            "color": line,
            **place,
        }
        if box.ghost or box.state == "removed":
            attributes["style"] = "rounded,filled,dashed"
        if box.kind in ("input", "output"):
            attributes["penwidth"] = "1.6"
        if box.count > 1:
            attributes |= {"shape": "plain", "style": ""}
            text = self.sheets(text, role)
        return f"{quoted(box.id)} [{_attributes(attributes)}, label=<{text}>];"

    def sheets(self, text: str, role: str) -> str:
        """A box that looks like a stack of sheets."""
        fill, line = self.colours[role], self.colours[f"{role}_line"]
        edge = f'border="1" sides="LRB" height="4" color="{line}" bgcolor="{fill}"'
        gap = '<td width="5" height="4" border="0"></td>'
        return (
            '<table border="0" cellborder="0" cellspacing="0" cellpadding="0">'
            f'<tr><td colspan="44" border="1" cellpadding="5" color="{line}" bgcolor="{fill}">{text}</td></tr>'
            f'<tr>{gap}<td colspan="42" {edge}></td>{gap}</tr>'
            f'<tr>{gap}{gap}<td colspan="40" {edge}></td>{gap}{gap}</tr><tr>{"<td></td>" * 44}</tr></table>'
        )

    def frame(self, id: str) -> dict[str, str]:
        """The attributes of a frame's border."""
        frame = self.frames[id]
        fill, line = frame_roles(frame)
        return {
            "id": f"f-{list(self.frames).index(id)}",
            "class": f"frame {frame.kind}",
            "style": "rounded,filled,dashed" if frame.state == "removed" else "rounded,filled",
            "fillcolor": self.colours[fill],
            "pencolor": self.colours[line],
            "penwidth": "1",
            "margin": "10",
            "labeljust": "l",
        }

    def frame_text(self, frame: Frame) -> str:
        """The title of a frame and the lines below it."""
        name = self.font(MARKS.get(frame.state, "") + frame.title, 11, "text", bold=True)
        first = self.row(f'<td align="left">{name}</td>', self.pills((), frame.badges))
        rest = [*frame.lines, labels.totals(frame.parameters, frame.flops)]
        rows = [f'<tr><td align="left">{self.font(text, 8, "muted")}</td></tr>' for text in rest if text]
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{first}{"".join(rows)}</table>'

    def frame_label(self, id: str, **place: str) -> str:
        """The title of a frame as a node."""
        number = list(self.frames).index(id)
        attributes = {"shape": "plain", "style": "", "id": f"f-{number}l", "class": "frame-label", **place}
        return f"{quoted(f'label of {id}')} [{_attributes(attributes)}, label=<{self.frame_text(self.frames[id])}>];"

    def role(self, arrow: Arrow) -> tuple[str, str]:
        """The colours of an arrow's line and text."""
        if arrow.ghost:
            return "ghost_line", "ghost_text"
        if arrow.state in MARKS:
            return f"{arrow.state}_line", f"{arrow.state}_line"
        role = flow_role(arrow.flow)
        return role or "arrow", role or "shape"

    def line(self, arrow: Arrow, number: int) -> dict[str, str]:
        """The attributes of an arrow."""
        line = {"class": f"arrow a{number}", "color": self.colours[self.role(arrow)[0]]}
        return line | ({"style": "dashed"} if arrow.ghost or arrow.state == "removed" else {})

    def arrow_text(self, arrow: Arrow) -> str:
        """An arrow's label; empty if it has none."""
        role = self.role(arrow)[1]
        texts = [part for text in arrow.lines for part in folded(text, 34, ", ")]
        rows = "".join(f"<tr><td>{self.font(text, 8, role)}</td></tr>" for text in texts if text)
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{rows}</table>' if rows else ""

    def label(self, bundle: Bundle, **place: str) -> str:
        """The label of some arrows as a node that lies on their common line; empty if they have none."""
        text = self.arrow_text(self.picture.arrows[bundle.arrows[0]])
        if not text:
            return ""
        root = self.tree.shown(bundle.root)
        ground = frame_roles(self.frames[root])[0] if root else "paper"
        attributes = {
            "shape": "plain",
            "style": "filled",
            "fillcolor": self.colours[ground],
            "class": " ".join(["arrow-text", *(f"a{i}" for i in bundle.arrows)]),
            **place,
        }
        return f"{quoted(f'text {bundle.number}')} [{_attributes(attributes)}, label=<{text}>];"


def _at(x: float, y: float) -> str:
    """A position; Graphviz's y runs upwards."""
    return f"{x:.2f},{-y:.2f}"


def _spline(points: Sequence[Point]) -> str:
    """An arrow's line, which ends where its head starts."""
    (x0, y0), (x1, y1) = points[-2:]
    far = math.hypot(x1 - x0, y1 - y0) or 1.0
    head = min(ARROW, far)
    last = x1 - (x1 - x0) / far * head, y1 - (y1 - y0) / far * head
    return f"e,{_at(x1, y1)} " + " ".join(_at(*p) for p in [*points[:-1], last])


def _attributes(values: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={quoted(v)}" for k, v in values.items())
