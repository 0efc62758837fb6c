"""Shows a picture as a tree in the terminal."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from graphmodel.visualize import labels
from graphmodel.visualize.dot import MARKS
from graphmodel.visualize.picture import Arrow, Box, Frame, Picture

STYLES = {"input": "bold", "stage": "blue", "op": "default", "head": "yellow", "output": "bold"}
STATES = {"added": "green", "removed": "red", "changed": "yellow"}


def to_tree(picture: Picture) -> Tree:
    """Inputs, trunks with their stages, operations, heads and outputs, each with what it reads."""
    return _Tree(picture).tree()


class _Tree:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.incoming: dict[str, list[Arrow]] = {b.id: [] for b in picture.boxes}
        for arrow in picture.arrows:
            self.incoming[arrow.target].append(arrow)
        self.boxes = {b.id: b for b in picture.boxes}
        self.frames = {f.id: f for f in picture.frames}

    def tree(self) -> Tree:
        root = Text(self.picture.title, style="bold")
        root.append("  " + "  ".join(self.picture.lines), style="dim")
        tree = Tree(root, guide_style="dim")
        open_frames: dict[str, Tree] = {}
        for box in self.picture.boxes:
            if box.kind == "output":
                continue
            self.branch(box.frame, open_frames, tree).add(self.box(box))
        outputs = [b for b in self.picture.boxes if b.kind == "output"]
        branch = tree.add(Text("outputs", style="bold"))
        for box in outputs:
            branch.add(self.box(box))
        return tree

    def branch(self, frame: str, open_frames: dict[str, Tree], tree: Tree) -> Tree:
        """The branch of a frame, which is opened if it is missing."""
        if not frame:
            return tree
        if frame not in open_frames:
            around = self.branch(self.frames[frame].parent, open_frames, tree)
            open_frames[frame] = around.add(self.frame(self.frames[frame]))
        return open_frames[frame]

    def frame(self, frame: Frame) -> Text:
        text = Text(MARKS.get(frame.state, "") + frame.title, style=STATES.get(frame.state, "bold"))
        rest = [*frame.lines, labels.totals(frame.parameters, frame.flops), *map(labels.badge, frame.badges)]
        return text.append("  " + " · ".join(r for r in rest if r), style="dim")

    def box(self, box: Box) -> Text:
        style = STATES.get(box.state) or ("dim" if box.ghost else STYLES[box.kind])
        text = Text(MARKS.get(box.state, "") + box.title, style=style)
        many = box.count if box.count > 1 else box.repeats
        if many > 1:
            text.append(f" ×{many}", style="bold")
        for feature in box.features:
            text.append(f" [{feature}]", style="cyan")
        rest = [*box.lines, labels.totals(box.parameters, box.flops), *map(labels.badge, self.picture.badges_of(box))]
        if any(rest):
            text.append("  " + " · ".join(r for r in rest if r), style="dim")
        reads = self.reads(box)
        if reads:
            text.append(f"  ← {reads}", style="dim")
        return text

    def reads(self, box: Box) -> str:
        """What a box reads; of a neighbour in the same frame only the shape."""
        parts = []
        for arrow in self.incoming[box.id]:
            source = self.boxes[arrow.source]
            if source.frame and source.frame == box.frame:
                parts.append(" ".join(arrow.lines))
                continue
            flow = self.picture.flows.get(arrow.flow, "") if source.frame else ""
            parts.append(" ".join(p for p in (self.name(source), f"({flow})" if flow else "", *arrow.lines) if p))
        return ", ".join(dict.fromkeys(parts))

    def name(self, box: Box) -> str:
        """The name of a box for its readers: its feature, its head, or its title."""
        if box.features:
            return ", ".join(box.features)
        return self.frames[box.frame].title if box.kind == "head" and box.frame else box.title
