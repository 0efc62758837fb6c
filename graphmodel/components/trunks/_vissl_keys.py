"""Renames state-dict keys by tables of prefixes that work in both directions."""

from __future__ import annotations

from collections.abc import Iterable

Table = Iterable[tuple[str, str]]
"""Pairs of prefixes: VISSL's and ours. The first match decides, so a longer prefix comes before its own beginning."""


def from_vissl(key: str, table: Table) -> str:
    """The key with VISSL's prefix replaced by ours; unchanged if none matches."""
    for theirs, ours in table:
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def to_vissl(key: str, table: Table) -> str:
    """The key with our prefix replaced by VISSL's; unchanged if none matches."""
    return from_vissl(key, [(ours, theirs) for theirs, ours in table])
