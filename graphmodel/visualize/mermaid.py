"""Writes a picture as Mermaid, which GitHub, GitLab and Jupyter draw inside Markdown."""

from __future__ import annotations

import re

from graphmodel.visualize import labels
from graphmodel.visualize.dot import MARKS
from graphmodel.visualize.palette import LIGHT, fill_role, flow_role, frame_roles
from graphmodel.visualize.picture import Box, Frame, Orientation, Picture

SHAPES = {
    "input": ("([", "])"),
    "output": ("([", "])"),
    "stage": ("[", "]"),
    "op": ("(", ")"),
    "head": ("[", "]"),
}
WIDE = '%%{init: {"flowchart": {"wrappingWidth": 420}}}%%'
"""Keeps lines in one piece; Mermaid breaks them at 200 pixels by default."""
STACK = ("[[", "]]")


def to_mermaid(picture: Picture, *, orientation: Orientation = "portrait") -> str:
    """The picture as a Mermaid flowchart; everything in its text but letters, digits and a few signs is escaped."""
    numbers = {b.id: i for i, b in enumerate(picture.boxes)}
    lines = [WIDE, f"flowchart {'LR' if orientation == 'landscape' else 'TB'}"]
    roles: dict[str, None] = {}

    def box(item: Box, indent: str) -> str:
        role = fill_role(item)
        roles[role] = None
        first, last = STACK if item.count > 1 else SHAPES[item.kind]
        return f'{indent}b{numbers[item.id]}{first}"{_box_text(item, picture)}"{last}:::{role}'

    styles = []

    def subgraph(frame: Frame, indent: str) -> list[str]:
        inner = [line for f in picture.frames if f.parent == frame.id for line in subgraph(f, f"{indent}  ")]
        boxes = [box(b, f"{indent}  ") for b in picture.inside(frame.id)]
        first = f'{indent}subgraph f{picture.frames.index(frame)}["{_frame_text(frame)}"]'
        return [first, *inner, *boxes, f"{indent}end"]

    for i, frame in enumerate(picture.frames):
        fill, line = frame_roles(frame)
        lines += [] if frame.parent else subgraph(frame, "  ")
        styles.append(f"  style f{i} fill:{LIGHT[fill]},stroke:{LIGHT[line]},color:{LIGHT['text']}")
    lines += [box(b, "  ") for b in picture.inside("")]
    for i, arrow in enumerate(picture.arrows):
        text = "<br/>".join(escaped(line) for line in arrow.lines if line)
        kind = "-.->" if arrow.ghost or arrow.state == "removed" else "-->"
        label = f'|"{text}"|' if text else ""
        lines.append(f"  b{numbers[arrow.source]} {kind}{label} b{numbers[arrow.target]}")
        role = f"{arrow.state}_line" if arrow.state in MARKS else flow_role(arrow.flow)
        if role:
            styles.append(f"  linkStyle {i} stroke:{LIGHT[role]},color:{LIGHT[role]}")
    for role in roles:
        colour = LIGHT["ghost_text" if role == "ghost" else "text"]
        dashed = ",stroke-dasharray:4 3" if role in ("ghost", "removed") else ""
        lines.append(f"  classDef {role} fill:{LIGHT[role]},stroke:{LIGHT[f'{role}_line']},color:{colour}{dashed}")
    return "\n".join([*lines, *styles, ""])


_KEEP = re.compile(r"[A-Za-z0-9 _,×·–…→−≈]")


def escaped(text: str) -> str:
    """Text that Mermaid shows unchanged: other signs become their code points, so none starts markup or a list."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    plain = re.sub(r"(?<=\w)\.(?=\w)", "\0", plain)  # dots inside numbers and paths are harmless
    return "".join(
        "." if c == "\0" else c if _KEEP.match(c) or (ord(c) > 127 and c.isalpha()) else f"#{ord(c)};" for c in plain
    )


def _box_text(box: Box, picture: Picture) -> str:
    many = box.count if box.count > 1 else box.repeats
    title = f"<b>{escaped(MARKS.get(box.state, '') + box.title)}</b>" + (f" ×{many}" if many > 1 else "")
    features = [f"feature {f}" for f in box.features]
    badges = [labels.badge(b) for b in picture.badges_of(box)]
    extra = " · ".join([*features, *badges])
    rest = [*box.lines, labels.totals(box.parameters, box.flops), extra]
    return "<br/>".join([title, *(escaped(line) for line in rest if line)])


def _frame_text(frame: Frame) -> str:
    lines = [frame.title, *frame.lines, labels.totals(frame.parameters, frame.flops), *map(labels.badge, frame.badges)]
    return " · ".join(escaped(line) for line in lines if line)
