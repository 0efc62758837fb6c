"""What explains a picture beside it: the legend, and the texts that a browser shows over boxes."""

from __future__ import annotations

from graphmodel.visualize import labels
from graphmodel.visualize.palette import fill_role, flow_role
from graphmodel.visualize.picture import Box, Picture


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
