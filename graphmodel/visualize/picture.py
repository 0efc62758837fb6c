"""The view model: boxes, arrows and frames with their texts and numbers. Every format is written from it.

Nothing here imports torch, so that a file name with an unknown suffix is rejected at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from graphmodel.diagnostics import choices_help, fail

FORMATS = ("svg", "png", "pdf", "html", "mmd", "dot", "json")
"""Formats of a picture, by the suffix of its file."""
LEVELS = ("overview", "stages", "all stages", "layers")
"""Levels of detail of the page, by `depth`."""

Sharing = Literal["merge", "split"]
Orientation = Literal["portrait", "landscape"]
BoxKind = Literal["input", "stage", "op", "head", "output"]
FrameKind = Literal["trunk", "head", "stage"]
State = Literal["", "same", "added", "removed", "changed"]

PAGE = 340.0
"""Figures of this width in points, 120 mm, or more are as wide as a page; others are as wide as a column."""
UNITS = {"mm": 72 / 25.4, "cm": 72 / 2.54, "in": 72.0, "pt": 1.0}
"""Units of lengths, in points."""
SCHEMA = 1
"""Version of the JSON format."""


@dataclass(frozen=True)
class Options:
    """What a picture of a graph shows.

    Attributes:
        sharing: `merge` draws a trunk once for all its passes; `split` draws each pass.
        depth: 0 draws a trunk as one box, 1 its stages with consecutive equal ones folded, 2 every stage, 3 the
            layers of every stage.
        stack: at least this many equal heads on one value are drawn as a stack; 0 never stacks.
        ghosts: also draw the parts of trunks that no output needs.
    """

    sharing: Sharing = "merge"
    depth: int = 1
    stack: int = 4
    ghosts: bool = False


@dataclass(frozen=True)
class Box:
    """One box: a call of the graph, or several that are folded into one.

    Attributes:
        id: the same for the same thing in another picture of the same or of a similar model.
        kind: what it is.
        title: its name.
        lines: short texts below the title.
        parameters: number of parameters; of a module that several boxes of a frame call, the first counts them.
        trainable: how many of them train.
        flops: of one forward pass in eval mode at batch size 1, summed over its calls.
        features: names of the trunk features that leave it.
        badges: facts that passes left on it (`frozen`, …); `labels.FACTS` explains them.
        frame: id of the enclosing frame, empty if there is none.
        count: how many equal heads or outputs are stacked in it.
        repeats: how many consecutive equal stages it represents.
        ghost: it is not part of the model, only of the trunk that the model was cut from.
        state: the result of a comparison.
        members: names of the graph's nodes that it represents.
        card: details on demand: `paths`, `classes`, `yaml`, `facts`, `contents`, …
    """

    id: str
    kind: BoxKind
    title: str
    lines: tuple[str, ...] = ()
    parameters: int = 0
    trainable: int = 0
    flops: int = 0
    features: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    frame: str = ""
    count: int = 1
    repeats: int = 1
    ghost: bool = False
    state: State = ""
    members: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrow:
    """A value that one box computes and another reads.

    Attributes:
        source: id of the box that computes it.
        target: id of the box that reads it.
        lines: its label; the last line is the shape.
        flow: the trunk pass that it belongs to, if there are several and it belongs to one.
        ghost: one of its ends is a ghost.
        state: the result of a comparison.
        members: the edges of the graph that it represents, as pairs of node names.
    """

    source: str
    target: str
    lines: tuple[str, ...] = ()
    flow: str = ""
    ghost: bool = False
    state: State = ""
    members: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Frame:
    """A border around boxes: a trunk, one pass through it, or a head of several modules.

    Attributes:
        id: see `Box`.
        kind: what it is.
        title: its name.
        lines: short texts below the title.
        parameters: of everything inside, each counted once.
        trainable: how many of them train.
        flops: of everything inside.
        badges: those that all boxes inside share.
        state: the result of a comparison.
        parent: id of the frame around it, empty if there is none.
        card: see `Box`.
    """

    id: str
    kind: FrameKind
    title: str
    lines: tuple[str, ...] = ()
    parameters: int = 0
    trainable: int = 0
    flops: int = 0
    badges: tuple[str, ...] = ()
    state: State = ""
    parent: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A whole picture.

    Attributes:
        title: the model's name, or that of its file.
        lines: totals and remarks below the title.
        boxes: in the order of execution.
        arrows: in the order of the boxes that read them.
        frames: in the order of their first boxes.
        flows: display name of each trunk pass by its id; empty if there is only one.
        edges: the graph's own edges, for following a path through boxes that represent several calls.
    """

    title: str
    lines: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    frames: tuple[Frame, ...] = ()
    flows: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[tuple[str, str], ...] = ()

    def inside(self, frame: str) -> tuple[Box, ...]:
        """The boxes of a frame; for an empty name, those outside every frame."""
        return tuple(b for b in self.boxes if b.frame == frame)

    def badges_of(self, box: Box) -> tuple[str, ...]:
        """The badges of a box that its frame does not already show."""
        frame = next((f for f in self.frames if f.id == box.frame), None)
        return tuple(b for b in box.badges if frame is None or b not in frame.badges)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the JSON format has it."""
        return {"graphmodel_picture": SCHEMA, **asdict(self)}


def check_format(suffix: str) -> str:
    """The format that a file's suffix names.

    Args:
        suffix: with or without its dot, in any case.

    Raises:
        CompileError: GM530 if it names none.
    """
    name = suffix.removeprefix(".").lower()
    if name not in FORMATS:
        what = (
            f"`{suffix}` is not a valid picture format" if name else "the file name needs a suffix that names a format"
        )
        path = name.rpartition(".")[2] in FORMATS
        help = f"write `draw(model, {name.rpartition('.')[2]!r})`, and its result to the file" if path else ""
        raise fail("GM530", what, help=help or choices_help(name, FORMATS, "formats"))
    return name


def in_points(length: str) -> float:
    """A length such as `84mm` or `7in` in points.

    Raises:
        CompileError: GM530 if it is not a length.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|in|pt)\s*", length)
    if found is None or not float(found[1]):
        raise fail("GM530", f"`{length}` is not a valid width", help="write a number and mm, cm, in or pt: `84mm`")
    return float(found[1]) * UNITS[found[2]]
