"""Every diagnostic code: what it means, an example that gets it and one that does not. Imports nothing heavy.

`graphmodel explain CODE` and docs/diagnostics.md print this table; tests run the examples.
"""

from __future__ import annotations

from graphmodel.diagnostics.codes import names, reading, weights, wiring
from graphmodel.diagnostics.codes.entry import Code

__all__ = ["CODES", "GROUPS", "Code", "to_markdown"]

GROUPS = {
    "1": ("GM1xx: reading", "The files cannot be read or joined."),
    "2": ("GM2xx: names and parameters", "The YAML is sound and says something that does not exist."),
    "3": ("GM3xx: wiring and shapes", "The names exist and do not fit together."),
    "4": ("GM4xx: passes", "A pass cannot do what the spec asks of it."),
    "5": ("GM5xx: lowering and weights", "The graph is sound; what was asked of the module or its weights is not."),
}
"""Titles of the groups of codes, by the digit behind `GM`."""

CODES: dict[str, Code] = dict(entry for group in (reading, names, wiring, weights) for entry in group.ENTRIES)
"""All codes in order."""


def to_markdown() -> str:
    """The page docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "<!-- Written by `python docs/generate.py` from graphmodel/codes/; a test compares them. -->",
        "",
        "Each finding has a code that never changes its meaning. `graphmodel explain CODE` prints the same text.",
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
