"""Follows the `defaults:` list of a Hydra configuration, as far as the files it names exist.

Source: Hydra 1.3's defaults list (`_self_`, `group: option`, `optional`, `override`, `@package`, `/absolute`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import Collector, Span, fail
from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.extends import MAX_CHAIN, FileReader
from graphmodel.spec.merge import merge

ENDINGS = ("", ".yaml", ".yml")
MAX_ENTRIES = 1000
"""The most entries of a defaults list: each is looked up in several folders."""


def has_defaults(document: Document) -> bool:
    """Whether the document has a Hydra defaults list; a native spec has no such key."""
    return "graphmodel" not in document.data and isinstance(document.data.get("defaults"), list)


def follow_defaults(
    document: Document, path: Path, report: Collector, reader: FileReader, chain: tuple[Path, ...] = ()
) -> Document:
    """The document merged over the files of its defaults list, or at the position of `_self_` in the list.

    Files are looked up in the folder of the file and in every folder above it. A missing one is a warning: it may be on
    Hydra's search path on another machine.

    Args:
        document: the document of the file.
        path: the file.
        report: where warnings go.
        reader: reads the files; lines of files outside the folder of the first one are not quoted in findings.
        chain: the files that led here.

    Raises:
        CompileError: GM107 if the defaults lists form a cycle or too many files, else as `read_file`.
    """
    if not has_defaults(document):
        return document
    chain = (*chain, path.resolve())
    own = merge([document])
    entries = own.data.pop("defaults")
    if len(entries) > MAX_ENTRIES:
        raise fail("GM107", f"the defaults list has more than {MAX_ENTRIES} entries", document.span(("defaults",)))
    parts: list[Document] = []
    placed = False
    for place, names, optional in _entries(entries):
        if names == ["_self_"]:
            parts.append(own)
            placed = True
            continue
        for name in names:
            target = _find(name, chain[-1].parent)
            if target is not None:
                _check_chain((*chain, target), document.span(("defaults",)))
                below = reader.read(target, quote=target.is_relative_to(chain[0].parent))
                parts.append(follow_defaults(below, target, report, reader, chain))
            elif not optional and "???" not in name:
                report.warning(
                    "GM109",
                    f"the defaults list names `{name}`, which does not exist; it is skipped",
                    document.span(place),
                    "pass that file before this one",
                )
    if not placed:
        parts.append(own)
    reader.tally(parts, document.span(("defaults",)))
    return merge(parts)


def _check_chain(chain: tuple[Path, ...], span: Span | None) -> None:
    """Refuses a cycle, and files that name each other too deeply."""
    if chain[-1] in chain[:-1]:
        cycle = " -> ".join(p.name for p in chain)
        raise fail("GM107", f"the defaults lists form a cycle: {cycle}", span, "remove one entry of the cycle")
    if len(chain) > MAX_CHAIN:
        raise fail("GM107", f"more than {MAX_CHAIN} files name each other in a row", span, "merge some of them")


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
    """The YAML file of a name, in the folder or the nearest one above it."""
    for parent in (folder, *folder.parents):
        for ending in ENDINGS:
            candidate = parent / f"{name}{ending}"
            try:
                if candidate.suffix in ENDINGS[1:] and candidate.is_file():
                    return candidate.resolve()
            except (OSError, RuntimeError):  # a name too long, a loop of links
                continue
    return None
