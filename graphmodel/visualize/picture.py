"""What a picture shows: boxes, arrows and frames, in plain words and numbers. Every form is derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

BoxKind = Literal["input", "stage", "op", "head", "output"]
FrameKind = Literal["trunk", "head"]
State = Literal["", "same", "added", "removed", "changed"]

SCHEMA = 1
"""Version of the JSON form."""


@dataclass(frozen=True)
class Box:
    """One thing in the picture: a call of the graph, or several that are folded into one.

    Attributes:
        id: names the same thing in another picture of the same or of a similar model.
        kind: what it is.
        title: its name.
        lines: what else is written in it, short.
        parameters: how many it has; a component in two boxes counts in both.
        trainable: how many of them train.
        flops: of one sample, forward, summed over the calls that it stands for.
        features: names of the trunk features that leave it.
        badges: what passes did to it (`frozen`, …); `words.FACTS` explains them.
        frame: the frame it lies in, empty for none.
        count: how many equal things lie in one stack.
        repeats: how many equal stages in a row it stands for.
        ghost: it is not part of the model, only of the trunk it was cut from.
        state: what a comparison says of it.
        members: names of the graph's nodes that it stands for.
        card: everything that is told of it on demand: `path`, `class`, `yaml`, `facts`, `contents`, …
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
    """A value that goes from one box to another.

    Attributes:
        source: id of the box that it leaves.
        target: id of the box that reads it.
        lines: what is written on it; the last is the shape.
        flow: the pass that it belongs to, where there are several and it belongs to one.
        ghost: one of its ends is a ghost.
        state: what a comparison says of it.
        members: the edges of the graph that it stands for, as pairs of node names.
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
        id: as a box's.
        kind: what it is.
        title: its name.
        lines: what else is written in it.
        parameters: of everything inside, each counted once.
        trainable: how many of them train.
        flops: of everything inside.
        badges: as a box's, where they hold for everything inside.
        state: what a comparison says of it.
        card: as a box's.
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
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A whole picture.

    Attributes:
        title: the model's name.
        lines: sums and remarks under it.
        boxes: in the order of execution.
        arrows: in the order of the boxes that read them.
        frames: in the order of their first boxes.
        flows: name of each pass that arrows are told apart by, by its id; empty where there is one.
        edges: the graph's own edges, for following a path through boxes that stand for several calls.
    """

    title: str
    lines: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    frames: tuple[Frame, ...] = ()
    flows: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[tuple[str, str], ...] = ()

    def inside(self, frame: str) -> tuple[Box, ...]:
        """The boxes of a frame; those of none for an empty name."""
        return tuple(b for b in self.boxes if b.frame == frame)

    def badges_of(self, box: Box) -> tuple[str, ...]:
        """The badges of a box that its frame does not already bear."""
        frame = next((f for f in self.frames if f.id == box.frame), None)
        return tuple(b for b in box.badges if frame is None or b not in frame.badges)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, plain data."""
        return {"graphmodel_picture": SCHEMA, **asdict(self)}
