"""Writes a picture as DOT in a light or dark palette; Graphviz makes every other format and the page from this text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphmodel.visualize import labels
from graphmodel.visualize.palette import DARK, LIGHT, fill_role, flow_role, frame_roles
from graphmodel.visualize.picture import Arrow, Box, Frame, Orientation, Picture

FONT = "Inter,Helvetica,Arial,sans-serif"
"""Inter is part of the package; the others serve programs that ignore the font inside an SVG."""

FILLER = '<td cellpadding="0"></td>' * 40
"""Graphviz divides spare width evenly among the cells of a row; these take nearly all of it."""
MARKS = {"added": "+ ", "removed": "− ", "changed": "~ "}


def to_dot(
    picture: Picture,
    *,
    theme: str = "light",
    orientation: Orientation = "portrait",
    legend: bool = True,
    title: bool = True,
) -> str:
    """The picture in Graphviz's language.

    Args:
        picture: what to draw.
        theme: `light` or `dark`.
        orientation: `portrait` draws from top to bottom, `landscape` from left to right.
        legend: whether to explain the colours and badges that occur.
        title: whether to write the model's name and totals above.
    """
    return _Writer(picture, LIGHT if theme == "light" else DARK, orientation).write(legend, title)


def printable(text: str) -> str:
    """Text with a space for each unprintable character: XML allows few of them, and some reverse the text."""
    return "".join(c if c.isprintable() else " " for c in text)


def quoted(text: str) -> str:
    """A DOT string."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(text: str) -> str:
    """Text inside an HTML-like label."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


class _Writer:
    def __init__(self, picture: Picture, colours: Mapping[str, str], orientation: Orientation) -> None:
        self.picture, self.colours = picture, colours
        self.landscape = orientation == "landscape"
        self.numbers = {b.id: i for i, b in enumerate(picture.boxes)}
        self.frame_of = {f.id: f for f in picture.frames}
        self.outside: list[str] = []
        self.gates: dict[str, list[str]] = {f.id: [] for f in picture.frames}
        self.inside: dict[str, list[str]] = {f.id: [] for f in picture.frames}

    def write(self, legend: bool, title: bool) -> str:
        c = self.colours
        graph = {
            "rankdir": "LR" if self.landscape else "TB",
            "bgcolor": c["paper"],
            "fontname": FONT,
            "fontcolor": c["text"],
            "pad": "0.15",
            "nodesep": "0.22",
            "ranksep": "0.2" if self.landscape else "0.17",
            "labeljust": "l",
            "labelloc": "b",
            "newrank": "true",
        }
        lines = ["digraph picture {", f"  graph [{_attributes(graph)}];"]
        lines.append(
            f'  node [shape=box, style="rounded,filled", fontname={quoted(FONT)}, fontsize=11, penwidth=1.1, '
            'margin="0.09,0.055", height=0.3, width=0.4];'
        )
        lines.append(
            f"  edge [fontname={quoted(FONT)}, fontsize=8, fontcolor={quoted(c['shape'])}, "
            f"color={quoted(c['arrow'])}, arrowsize=0.55, penwidth=1.1];"
        )
        if legend:
            lines.append(f"  label=<{self.legend()}>;")
        lines += ["  subgraph cluster_picture {", '    pencolor="transparent"; bgcolor="transparent"; margin=6;']
        lines.append(f"    label=<{self.heading()}>;" if title else '    label="";')
        lines += ['    labelloc="t";'] if title else []
        for i, arrow in enumerate(self.picture.arrows):
            self.arrow(arrow, i)
        for frame in self.picture.frames:
            lines += self.frame(frame)
        lines += [f"    {self.box(b)}" for b in self.picture.inside("")]
        lines += [f"    {line}" for line in self.outside]
        return "\n".join([*lines, "  }", "}", ""])

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
        if not found:
            return ""
        return '<td width="7"></td>'.join(["", *found])

    def row(self, *cells: str) -> str:
        """Cells side by side: the first on the left, the others on the right."""
        first, *others = cells
        return (
            '<tr><td><table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr>'
            f"{first}{FILLER}{''.join(others)}</tr></table></td></tr>"
        )

    def heading(self) -> str:
        spare = '<td width="12"></td>'
        name = self.font(labels.cut(self.picture.title, 60), 15, "text", bold=True)
        rows = [f'<tr><td align="left">{name}</td>{spare}</tr>']
        rows += [f'<tr><td align="left">{self.font(line, 9, "muted")}</td>{spare}</tr>' for line in self.picture.lines]
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{"".join(rows)}</table>'

    def legend(self) -> str:
        entries = []
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
            entries.append(f'{mark}<td align="left">{self.font(text, 8, "muted")}</td>')
        rows = [[]]  # type: list[list[str]]
        room = width = 150 if self.landscape else 80
        for entry, (_, text) in zip(entries, legend_entries(self.picture), strict=True):
            if len(text) + 5 > room and rows[-1]:
                rows.append([])
                room = width
            rows[-1].append(entry)
            room -= len(text) + 5
        table = '<table border="0" cellborder="0" cellspacing="0" cellpadding="2"><tr>{}</tr></table>'
        inner = [f'<td align="left">{table.format("<td> </td>".join(row))}</td>{FILLER}' for row in rows if row]
        lines = [f'<tr><td align="left">{table.format(row)}</td></tr>' for row in inner]
        body = "".join(lines) or "<tr><td></td></tr>"
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0">{body}</table>'

    # -- parts --------------------------------------------------------------------------------------------------------

    def box(self, box: Box) -> str:
        role = fill_role(box)
        line = self.colours[f"{role}_line"]
        strong, quiet = ("ghost_text", "ghost_text") if box.ghost else ("text", "muted")
        size = 10 if box.kind in ("op", "output") else 11
        name = self.font(MARKS.get(box.state, "") + box.title, size, strong, bold=box.kind != "op")
        many = box.count if box.count > 1 else box.repeats
        times = f'<td width="9"></td><td>{self.font(f"×{many}", 11, strong, bold=True)}</td>' if many > 1 else ""
        first = self.row(f'<td align="left">{name}</td>', times, self.pills(box.features, self.picture.badges_of(box)))
        sums = labels.totals(box.parameters, box.flops)
        rest = [(line, 9) for line in box.lines] + ([(sums, 8)] if sums else [])
        rows = [f'<tr><td align="left">{self.font(text, points, quiet)}</td></tr>' for text, points in rest]
        text = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{first}{"".join(rows)}</table>'
        attributes = {
            "id": f"b-{self.numbers[box.id]}",
            "class": f"box {box.kind}",
            "fillcolor": self.colours[role],
            "color": line,
        }
        if box.kind == "stage" and box.frame:
            attributes["group"] = box.frame
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

    def frame(self, frame: Frame) -> list[str]:
        fill, line = frame_roles(frame)
        name = self.font(MARKS.get(frame.state, "") + frame.title, 11, "text", bold=True)
        first = self.row(f'<td align="left">{name}</td>', self.pills((), frame.badges))
        rest = [*frame.lines, labels.totals(frame.parameters, frame.flops)]
        rows = [f'<tr><td align="left">{self.font(text, 8, "muted")}</td></tr>' for text in rest if text]
        style = "rounded,filled,dashed" if frame.state == "removed" else "rounded,filled"
        attributes = {
            "id": f"f-{list(self.frame_of).index(frame.id)}",
            "class": f"frame {frame.kind}",
            "style": style,
            "fillcolor": self.colours[fill],
            "pencolor": self.colours[line],
            "penwidth": "1",
            "margin": "10",
            "labeljust": "l",
            "labelloc": "t",
        }
        text = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{first}{"".join(rows)}</table>'
        inside = self.picture.inside(frame.id)
        # A cluster's own label lies in the way of arrows; arrows go around one that is a node.
        name, node = quoted(f"label of {frame.id}"), f"{attributes['id']}l"
        first_box = quoted(inside[0].id)
        label = [
            '      label="";',
            f'      {name} [shape=plain, style="", id={quoted(node)}, class="frame-label", label=<{text}>];',
            f"      {{rank=same; {name}; {first_box};}}"
            if self.landscape
            else f"      {name} -> {first_box} [style=invis];",
        ]
        return [
            f"    subgraph {quoted('cluster_' + frame.id)} {{",
            f"      graph [{_attributes(attributes)}];",
            *(f"      {line}" for line in self.gates[frame.id]),
            *label,
            *(f"      {self.box(b)}" for b in inside),
            *(f"      {line}" for line in self.inside[frame.id]),
            "    }",
        ]

    def arrow(self, arrow: Arrow, number: int) -> None:
        """Two lines with the arrow's label as a node between them, so that it never covers anything."""
        role = flow_role(arrow.flow)
        first, second = self.picture.boxes[self.numbers[arrow.source]], self.picture.boxes[self.numbers[arrow.target]]
        text_role = role or "shape"
        if arrow.state in MARKS:
            role = text_role = f"{arrow.state}_line"
        if arrow.ghost:
            role, text_role = "ghost_line", "ghost_text"
        frame = first.frame if first.frame == second.frame else ""
        line = {"class": f"arrow a{number}", "color": self.colours[role or "arrow"]}
        if arrow.ghost or arrow.state == "removed":
            line["style"] = "dashed"
        if frame:
            line["weight"] = "8"
        source, target = quoted(arrow.source), quoted(arrow.target)
        rows = "".join(f"<tr><td>{self.font(text, 8, text_role)}</td></tr>" for text in arrow.lines if text)
        if not rows:
            self.outside.append(f"{source} -> {target} [{_attributes(line)}];")
            return
        name = quoted(f"text of arrow {number}")
        label = {"shape": "plain", "style": "", "width": "0", "height": "0", "class": f"arrow-text a{number}"}
        if frame:
            label["group"] = f"{frame} {arrow.flow}"
        table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{rows}</table>'
        place = self.inside[frame] if frame else self.outside
        place.append(f"{name} [{_attributes(label)}, label=<{table}>];")
        half = _attributes(line | {"dir": "none"})
        self.outside.append(f"{source} -> {name} [{half}];")
        if second.frame and second.frame != first.frame and not self.landscape:
            # Beside the frame's label, inside its border: otherwise a line may leave the frame to go around it.
            gate = quoted(f"gate of arrow {number}")
            self.gates[second.frame].append(f'{gate} [shape=point, style=invis, width=0, height=0, label=""];')
            self.outside.append(f"{name} -> {quoted(f'label of {second.frame}')} [style=invis, weight=0];")
            self.outside.append(f"{name} -> {gate} [{half}, headclip=false, weight=2];")
            self.outside.append(f"{gate} -> {target} [{_attributes(line)}, tailclip=false];")
            return
        self.outside.append(f"{name} -> {target} [{_attributes(line)}];")


def tooltip(box: Box) -> str:
    """The text that a browser shows over a box of an SVG."""
    paths = box.card.get("paths", [])
    return "\n".join([box.title, *paths[:12], *(f"{y['place']}" for y in box.card.get("yaml", [])[:2])])


def legend_entries(picture: Picture) -> list[tuple[str, str]]:
    """The colours, badges and signs that occur in a picture, each with its meaning."""
    roles = {fill_role(b) for b in picture.boxes}
    states = {b.state for b in picture.boxes}
    meanings = {
        "stage": "trunk stage",
        "head": "head",
        "op": "operation",
        "frozen": "frozen",
        "ghost": "not needed, left out",
        "added": "added",
        "removed": "removed",
        "changed": "changed",
        "same": "unchanged",
    }
    entries = [(role, text) for role, text in meanings.items() if role in roles]
    if any(states):
        return entries
    if any(b.features for b in picture.boxes):
        entries.append(("feature", "a feature that is used"))
    entries += [(id, name) for id, name in picture.flows.items() if flow_role(id)]
    marked = [*(b.badges for b in picture.boxes), *(f.badges for f in picture.frames)]
    found = dict.fromkeys(b for badges in marked for b in badges if b != "frozen")
    entries += [(labels.badge(b), labels.FACTS[b][1] if b in labels.FACTS else b) for b in found]
    if any(a.lines and "N" in a.lines[-1] for a in picture.arrows):
        entries.append(("N", "batch size"))
    return entries


def _attributes(values: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={quoted(v)}" for k, v in values.items())
