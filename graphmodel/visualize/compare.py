"""Merges two pictures into one in which everything added, removed or changed is marked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TypeVar

from graphmodel.profiling import units
from graphmodel.visualize import labels
from graphmodel.visualize.picture import Arrow, Box, Frame, Picture

Part = TypeVar("Part", Box, Frame)


def compare_pictures(before: Picture, after: Picture) -> Picture:
    """One picture of both.

    Boxes and frames with equal ids are the same thing. Members of removed boxes get a prefix, so that a path through
    the new model never contains them.
    """
    old, new = {b.id: b for b in before.boxes}, {b.id: b for b in after.boxes}
    boxes = [_box(old.get(id), new.get(id)) for id in _joined(list(old), list(new))]
    frames_old, frames_new = {f.id: f for f in before.frames}, {f.id: f for f in after.frames}
    frames = [_frame(frames_old.get(id), frames_new.get(id)) for id in _joined(list(frames_old), list(frames_new))]
    place = {b.id: i for i, b in enumerate(boxes)}
    arrows = sorted(_arrows(before, after), key=lambda a: (place[a.target], place[a.source]))
    title = before.title if before.title == after.title else f"{before.title} → {after.title}"
    lines = after.lines if before.lines == after.lines else (*(f"was: {line}" for line in before.lines), *after.lines)
    return Picture(title, lines, tuple(boxes), tuple(arrows), tuple(frames), {}, after.edges)


def _joined(old: list[str], new: list[str]) -> list[str]:
    """The new order, with what was removed after its former predecessor."""
    found = list(new)
    for i, id in enumerate(old):
        if id not in new:
            earlier = next((found.index(o) for o in reversed(old[:i]) if o in found), -1)
            found.insert(earlier + 1, id)
    return found


def _box(old: Box | None, new: Box | None) -> Box:
    if new is None:
        assert old is not None
        return replace(old, state="removed", members=tuple(f"before:{m}" for m in old.members))
    if old is None:
        return replace(new, state="added")
    looks = [
        (b.title, b.lines, b.parameters, b.trainable, b.features, b.badges, b.count, b.repeats, b.frame)
        for b in (old, new)
    ]
    if looks[0] == looks[1]:
        return replace(new, state="same")
    return replace(new, state="changed", lines=(*new.lines, *_was(old, new)))


def _frame(old: Frame | None, new: Frame | None) -> Frame:
    if new is None:
        assert old is not None
        return replace(old, state="removed")
    if old is None:
        return replace(new, state="added")
    looks = [(f.title, f.lines, f.parameters, f.trainable, f.badges) for f in (old, new)]
    return replace(new, state="same" if looks[0] == looks[1] else "changed", lines=(*new.lines, *_was(old, new)))


def _was(old: Part, new: Part) -> list[str]:
    """What a changed box or frame said before."""
    gone = [line for line in old.lines if line not in new.lines]
    if old.title != new.title:
        gone.insert(0, old.title)
    if old.parameters != new.parameters:
        gone.append(f"{units.count(old.parameters)} params")
    if isinstance(old, Box) and isinstance(new, Box):
        gone += [f"feature {f}" for f in old.features if f not in new.features]
        if (old.count, old.repeats) != (new.count, new.repeats):
            gone.append(f"×{max(old.count, old.repeats)}")
    gone += [labels.badge(b) for b in old.badges if b not in new.badges]
    gone += [f"not {labels.badge(b)}" for b in new.badges if b not in old.badges]
    return [labels.cut(f"was {', '.join(gone)}", labels.LONGEST + 10)] if gone else []


def _arrows(before: Picture, after: Picture) -> list[Arrow]:
    """The arrows of both; those of one flow between the same boxes are the same arrow."""
    found: list[Arrow] = []
    by_ends: dict[tuple[str, str, str], tuple[list[Arrow], list[Arrow]]] = defaultdict(lambda: ([], []))
    for which, picture in enumerate((before, after)):
        for arrow in picture.arrows:
            flow = picture.flows.get(arrow.flow, "") if before.flows and after.flows else ""
            by_ends[arrow.source, arrow.target, flow][which].append(replace(arrow, flow=""))
    for old, new in by_ends.values():
        gone, left = list(old), []
        for arrow in new:
            same = next((g for g in gone if g.lines == arrow.lines), None)
            if same is None:
                left.append(arrow)
            else:
                gone.remove(same)
                found.append(replace(arrow, state="same"))
        for i, arrow in enumerate(left):
            was = gone[i] if i < len(gone) else None
            lines = arrow.lines if was is None else (*arrow.lines, f"was {' '.join(was.lines)}")
            found.append(replace(arrow, lines=lines, state="added" if was is None else "changed"))
        for arrow in gone[len(left) :]:
            members = tuple((f"before:{a}", f"before:{b}") for a, b in arrow.members)
            found.append(replace(arrow, state="removed", members=members))
    return found
