"""The colours of pictures, light and dark, and the role of each part: which colour it has.

They are tints of Okabe and Ito's set, which colour-blind readers can tell apart. Text has a contrast of at least 4.5:1
with its background.

Source: Okabe and Ito 2008, "Color Universal Design".
"""

from __future__ import annotations

from graphmodel.visualize.picture import Box, Frame

PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#12161b"),
    "text": ("#17202a", "#e9edf1"),
    "muted": ("#55606c", "#a3aebb"),
    "arrow": ("#77828e", "#7f8b98"),
    "shape": ("#5a6572", "#a0abb7"),
    "input": ("#fdfdfe", "#1b2128"),
    "input_line": ("#5f6b77", "#8d99a6"),
    "stage": ("#e2eef9", "#173450"),
    "stage_line": ("#3a78b0", "#5b9fd6"),
    "op": ("#f2f4f6", "#232a32"),
    "op_line": ("#98a3ae", "#6c7885"),
    "head": ("#fdf0d9", "#3f2f10"),
    "head_line": ("#bf8310", "#d9a13a"),
    "output": ("#fefefe", "#1c2229"),
    "output_line": ("#606c78", "#8e9aa7"),
    "frozen": ("#dfe4e9", "#333b44"),
    "frozen_line": ("#7c8895", "#8793a0"),
    "ghost": ("#fcfcfc", "#14181d"),
    "ghost_line": ("#b3bcc6", "#4f5a66"),
    "ghost_text": ("#626d78", "#8b96a3"),
    "trunk_frame": ("#f5f9fd", "#131f2b"),
    "trunk_frame_line": ("#b7cfe6", "#31506d"),
    "stage_frame": ("#eaf2fa", "#16283a"),
    "stage_frame_line": ("#9dbddb", "#3b5f80"),
    "head_frame": ("#fef9f0", "#221c10"),
    "head_frame_line": ("#e6cb98", "#665026"),
    "frozen_frame": ("#f3f5f7", "#1a1f25"),
    "frozen_frame_line": ("#c0c8d0", "#46515d"),
    "feature": ("#1f5f96", "#8cc4f2"),
    "feature_text": ("#fffffe", "#0d1c2a"),
    "badge": ("#fffffd", "#13171c"),
    "badge_line": ("#a5afb9", "#66727f"),
    "badge_text": ("#4d5864", "#b6c0cb"),
    "flow0": ("#00805d", "#3fc59c"),
    "flow1": ("#a3477f", "#e091c0"),
    "flow2": ("#b84f00", "#f08c4b"),
    "flow3": ("#1b6fb3", "#6db4ec"),
    "flow4": ("#7a6a00", "#d8c33b"),
    "flow5": ("#4a4f57", "#c3c9d1"),
    "same": ("#f7f8fa", "#20262d"),
    "same_line": ("#a8b2bc", "#5c6773"),
    "added": ("#d5f0e6", "#0b4534"),
    "added_line": ("#00795a", "#41c79e"),
    "removed": ("#fbe2d5", "#43210f"),
    "removed_line": ("#b64a02", "#f08a4e"),
    "changed": ("#fff3c4", "#3d3508"),
    "changed_line": ("#7d6400", "#dcc440"),
}
"""The light and the dark colour of each role. No two roles share one, so that a page can replace one by the other."""
LIGHT = {role: light for role, (light, _) in PALETTE.items()}
DARK = {role: dark for role, (_, dark) in PALETTE.items()}


def fill_role(box: Box) -> str:
    """The role of a box's fill; the role of its line ends in `_line`."""
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
