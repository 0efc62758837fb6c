"""Every diagnostic code: its meaning, an example that triggers it, and one that does not. Imports nothing heavy.

`graphmodel explain CODE` and docs/diagnostics.md print this table; tests run the examples.
"""

from __future__ import annotations

from graphmodel.diagnostics.codes import (
    batching,
    exporting,
    features,
    frozen,
    grids,
    inputs,
    losses,
    names,
    passes,
    probing,
    profiling,
    reading,
    sharding,
    training,
    weights,
    wiring,
)
from graphmodel.diagnostics.codes.entry import Code

__all__ = ["CODES", "GROUPS", "Code", "to_markdown"]

GROUPS = {
    "1": ("GM1xx: reading", "The files cannot be read or merged."),
    "2": ("GM2xx: names and parameters", "The YAML is valid, but a key, value or name in it is not."),
    "3": ("GM3xx: wiring and shapes", "The names exist, but the parts do not fit together."),
    "4": ("GM4xx: passes", "What a pass did not do, and why."),
    "5": (
        "GM5xx: weights, files and calls",
        "The graph is valid, but a request about the module, its weights, its files or its inputs is not.",
    ),
    "6": ("GM6xx: features", "Features cannot be extracted, stored, read or probed."),
}
"""Titles and descriptions of the groups of codes, by the digit after `GM`."""

CODES: dict[str, Code] = dict(
    sorted(
        entry
        for group in (
            reading,
            names,
            grids,
            wiring,
            passes,
            batching,
            frozen,
            weights,
            inputs,
            profiling,
            losses,
            exporting,
            sharding,
            training,
            features,
            probing,
        )
        for entry in group.ENTRIES
    )
)
"""All codes, in order."""


def to_markdown() -> str:
    """The page docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "<!-- Written by `python docs/generate.py` from graphmodel/diagnostics/codes/; a test compares them. -->",
        "",
        "Each finding has a code whose meaning never changes. `graphmodel explain CODE` prints the text below.",
    ]
    for digit, (title, meaning) in GROUPS.items():
        codes = [c for c in CODES.values() if c.code[2] == digit]
        if not codes:
            continue
        lines += ["", f"## {title}", "", meaning]
        for code in codes:
            lines += ["", f"### {code.code}: {code.title}", "", code.meaning]
            for label, example in (("Wrong:", code.bad), ("Right:", code.good)):
                if example:
                    lines += ["", label, "", f"```{code.language}", example.rstrip(), "```"]
    return "\n".join(lines) + "\n"
