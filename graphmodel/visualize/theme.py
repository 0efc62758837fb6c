"""Colours and type: one light and one dark palette, from tints of Okabe and Ito's colour-blind-safe set.

Source: Okabe and Ito 2008, "Color Universal Design". Text keeps a contrast of at least 4.5:1 on what it stands on.
Every role has a colour of its own, so that a page can change palettes by replacing one colour by another.
"""

from __future__ import annotations

from graphmodel.visualize.picture import Box, Frame

FONT = "Inter,Helvetica,Arial,sans-serif"
"""Inter travels with the package; the rest serves programs that ignore the font inside of an SVG."""

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "text": "#17202a",
    "muted": "#55606c",
    "arrow": "#77828e",
    "shape": "#5a6572",
    "input": "#fdfdfe",
    "input_line": "#5f6b77",
    "stage": "#e2eef9",
    "stage_line": "#3a78b0",
    "op": "#f2f4f6",
    "op_line": "#98a3ae",
    "head": "#fdf0d9",
    "head_line": "#bf8310",
    "output": "#fefefe",
    "output_line": "#606c78",
    "frozen": "#dfe4e9",
    "frozen_line": "#7c8895",
    "ghost": "#fcfcfc",
    "ghost_line": "#b3bcc6",
    "ghost_text": "#626d78",
    "trunk_frame": "#f5f9fd",
    "trunk_frame_line": "#b7cfe6",
    "head_frame": "#fef9f0",
    "head_frame_line": "#e6cb98",
    "frozen_frame": "#f3f5f7",
    "frozen_frame_line": "#c0c8d0",
    "feature": "#1f5f96",
    "feature_text": "#fffffe",
    "badge": "#fffffd",
    "badge_line": "#a5afb9",
    "badge_text": "#4d5864",
    "flow0": "#00805d",
    "flow1": "#a3477f",
    "flow2": "#b84f00",
    "flow3": "#1b6fb3",
    "flow4": "#7a6a00",
    "flow5": "#4a4f57",
    "same": "#f7f8fa",
    "same_line": "#a8b2bc",
    "added": "#d5f0e6",
    "added_line": "#00795a",
    "removed": "#fbe2d5",
    "removed_line": "#b64a02",
    "changed": "#fff3c4",
    "changed_line": "#7d6400",
}

DARK: dict[str, str] = {
    "paper": "#12161b",
    "text": "#e9edf1",
    "muted": "#a3aebb",
    "arrow": "#7f8b98",
    "shape": "#a0abb7",
    "input": "#1b2128",
    "input_line": "#8d99a6",
    "stage": "#173450",
    "stage_line": "#5b9fd6",
    "op": "#232a32",
    "op_line": "#6c7885",
    "head": "#3f2f10",
    "head_line": "#d9a13a",
    "output": "#1c2229",
    "output_line": "#8e9aa7",
    "frozen": "#333b44",
    "frozen_line": "#8793a0",
    "ghost": "#14181d",
    "ghost_line": "#4f5a66",
    "ghost_text": "#8b96a3",
    "trunk_frame": "#131f2b",
    "trunk_frame_line": "#31506d",
    "head_frame": "#221c10",
    "head_frame_line": "#665026",
    "frozen_frame": "#1a1f25",
    "frozen_frame_line": "#46515d",
    "feature": "#8cc4f2",
    "feature_text": "#0d1c2a",
    "badge": "#13171c",
    "badge_line": "#66727f",
    "badge_text": "#b6c0cb",
    "flow0": "#3fc59c",
    "flow1": "#e091c0",
    "flow2": "#f08c4b",
    "flow3": "#6db4ec",
    "flow4": "#d8c33b",
    "flow5": "#c3c9d1",
    "same": "#20262d",
    "same_line": "#5c6773",
    "added": "#0b4534",
    "added_line": "#41c79e",
    "removed": "#43210f",
    "removed_line": "#f08a4e",
    "changed": "#3d3508",
    "changed_line": "#dcc440",
}

THEMES = {"light": LIGHT, "dark": DARK}


def fill_role(box: Box) -> str:
    """The role whose colour fills a box; its line has the same name with `_line`."""
    if box.state:
        return box.state
    if box.ghost:
        return "ghost"
    if "frozen" in box.badges and box.kind in ("stage", "head"):
        return "frozen"
    return box.kind


def frame_roles(frame: Frame) -> tuple[str, str]:
    """The roles of a frame's fill and of its line."""
    role = "frozen_frame" if frame.state or "frozen" in frame.badges else f"{frame.kind}_frame"
    changed = frame.state in ("added", "removed", "changed")
    return role, f"{frame.state if changed else role}_line"


def flow_role(flow: str) -> str:
    """The role of a flow's arrows; flows beyond the sixth look like plain arrows."""
    return flow if flow in LIGHT else ""


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
