"""Follows the `defaults:` list of a Hydra configuration, as far as the files it names exist.

Source: Hydra 1.3's defaults list (`_self_`, `group: option`, `optional`, `override`, `@package`, `/absolute`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import Collector, fail
from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.merge import merge, read_extended

ENDINGS = ("", ".yaml", ".yml")


def has_defaults(document: Document) -> bool:
    """Whether the document has a Hydra defaults list; a native spec has no such key."""
    return "graphmodel" not in document.data and isinstance(document.data.get("defaults"), list)


def follow_defaults(document: Document, path: Path, report: Collector, chain: tuple[Path, ...] = ()) -> Document:
    """The document merged over the files of its defaults list, or at the position of `_self_` in the list.

    Files are looked up in the folder of the file and in every folder above it. A missing one is a warning: it may be on
    Hydra's search path on another machine.

    Raises:
        CompileError: GM107 if files name each other in a circle, else as `read_file`.
    """
    if not has_defaults(document):
        return document
    here = path.resolve()
    if here in chain:
        circle = " -> ".join(p.name for p in (*chain, here))
        raise fail(
            "GM107", f"defaults name each other in a circle: {circle}", document.span(("defaults",)), "break the circle"
        )
    own = merge([document])
    entries = own.data.pop("defaults")
    parts: list[Document] = []
    placed = False
    for place, names, optional in _entries(entries):
        if names == ["_self_"]:
            parts.append(own)
            placed = True
            continue
        for name in names:
            target = _find(name, here.parent)
            if target is not None:
                below = read_extended(target)
                parts.append(follow_defaults(below, target, report, (*chain, here)))
            elif not optional and "???" not in name:
                report.warning(
                    "GM109",
                    f"the defaults list names `{name}`, which does not exist; it is skipped",
                    document.span(place),
                    "pass that file before this one",
                )
    if not placed:
        parts.append(own)
    return merge(parts)


def _entries(items: list[Any]) -> Iterator[tuple[KeyPath, list[str], bool]]:
    """Each entry's path, the files it names, and whether they may be missing."""
    for i, item in enumerate(items):
        place: KeyPath = ("defaults", i)
        if isinstance(item, str):
            yield place, [_plain(item)], item.startswith("optional ")
        elif isinstance(item, dict) and len(item) == 1:
            group, option = next(iter(item.items()))
            options = option if isinstance(option, list) else [option]
            names = [f"{_plain(group)}/{o}" for o in options if isinstance(o, str)]
            yield place, names, group.startswith("optional ")


def _plain(name: str) -> str:
    """A name without Hydra's keywords before it and the package after it."""
    for word in ("optional ", "override "):
        name = name.removeprefix(word)
    return name.strip().lstrip("+/").partition("@")[0]


def _find(name: str, folder: Path) -> Path | None:
    for parent in (folder, *folder.parents):
        for ending in ENDINGS:
            candidate = parent / f"{name}{ending}"
            if candidate.is_file():
                return candidate
    return None
