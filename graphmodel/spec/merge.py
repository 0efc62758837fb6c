"""Joins documents: overlays over a base, `extends:`, and `--set path=value` overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import CompileError, Span, fail
from graphmodel.spec.document import Document, KeyPath, Place, dotted, read_file, read_text

SET_SOURCE = "<--set>"
_INDEX = re.compile(r"\[(\d+)\]")


def merge(documents: Sequence[Document]) -> Document:
    """Later documents over earlier ones: mappings merge key by key, everything else is replaced.

    Every value keeps its location in the document it came from.
    """
    out = Document({}, {}, ())
    for document in documents:
        _overlay(out, document, (), document.data)
        for path, place in document.places.items():
            out.places.setdefault(path, place)
        out.files = (*out.files, *document.files)
    return out


def _overlay(base: Document, top: Document, path: KeyPath, value: dict[str, Any]) -> None:
    target = base.get(path)
    for key, new in value.items():
        here = (*path, key)
        if isinstance(new, dict) and isinstance(target.get(key), dict):
            _overlay(base, top, here, new)
            if here in top.places:
                base.places[here] = top.places[here]
        else:
            _drop_places(base, here)
            target[key] = _copy(new)
            base.places.update({p: v for p, v in top.places.items() if p[: len(here)] == here})


def _drop_places(document: Document, path: KeyPath) -> None:
    for old in [p for p in document.places if p[: len(path)] == path]:
        del document.places[old]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(v) for v in value]
    return value


def from_mapping(data: Any) -> Document:
    """A document for a mapping that is already in memory; the caller's object is never changed.

    Raises:
        CompileError: GM106 if a key is not text.
    """

    def check(value: Any, path: KeyPath) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str):
                    raise fail("GM106", f"the key `{key!r}` is not text", path=dotted(path))
                check(child, (*path, key))
        elif isinstance(value, (list, tuple)):
            for i, child in enumerate(value):
                check(child, (*path, i))

    check(data, ())
    return Document(_copy(data), {}, ())


def read_extended(path: str | Path, chain: tuple[Path, ...] = ()) -> Document:
    """Reads a file and the files that its `extends:` names, the file itself last.

    Raises:
        CompileError: GM107 if files extend each other in a circle or `extends` is not a path, else as `read_file`.
    """
    document = read_file(path)
    data: dict[str, Any] = document.data
    if "extends" not in data:
        return document
    span = document.span(("extends",))
    names = data["extends"] if isinstance(data["extends"], list) else [data["extends"]]
    here = Path(path).resolve()
    chain = (*chain, here)
    bases: list[Document] = []
    for i, name in enumerate(names):
        at = document.span(("extends", i)) if isinstance(data["extends"], list) else span
        if not isinstance(name, str):
            raise fail("GM107", "`extends` takes a path or a list of paths", at)
        target = (Path(path).parent / name).resolve()
        if target in chain:
            circle = " -> ".join(p.name for p in (*chain, target))
            raise fail("GM107", f"files extend each other in a circle: {circle}", at, "break the circle")
        if not target.is_file():
            raise fail("GM107", f"`extends` names a file that does not exist: {name}", at, f"looked for {target}")
        bases.append(read_extended(Path(path).parent / name, chain))
    del data["extends"]
    _drop_places(document, ("extends",))
    return merge([*bases, document])


def parse_path(text: str) -> KeyPath:
    """`a.b[0].c` or `a.b.0.c` as a path."""
    spread = _INDEX.sub(r".\1", text)
    return tuple(int(part) if part.isdigit() else part for part in spread.split("."))


def apply_overrides(document: Document, overrides: Sequence[str], prefixes: Sequence[KeyPath] = ((),)) -> Document:
    """Sets `path=value` items; the value is YAML. The result is a new document.

    Args:
        document: the merged files.
        overrides: `a.b.c=value` items, applied in order.
        prefixes: where a path may start, tried in order: VISSL's own form starts at `config.`.

    Raises:
        CompileError: GM108 if an item has no `=`, its value is not valid YAML, or its path goes through a value that is
            not a mapping or list. All bad items are reported.
    """
    out = merge([document])
    problems = []
    for item in overrides:
        try:
            _override(out, item, prefixes)
        except CompileError as error:
            problems += error.diagnostics
    if problems:
        raise CompileError(problems)
    return out


def _override(document: Document, item: str, prefixes: Sequence[KeyPath]) -> None:
    span = Span(SET_SOURCE, 1, 1, max(len(item), 1), item)
    name, equals, text = item.partition("=")
    name = name.strip().lstrip("+")
    if not equals or not name:
        raise fail("GM108", f"`{item}` is not of the form path=value", span, "for example trunk.depth=101")
    try:
        value = read_text(f"value: {text}" if text.strip() else "value:", SET_SOURCE).data["value"]
    except CompileError:
        raise fail("GM108", f"the value of `{item}` is not valid YAML", span) from None
    path = parse_path(name)
    if any(part == "" for part in path):
        raise fail("GM108", f"`{name}` is not a valid path: a part of it is empty", span)
    for prefix in prefixes:
        if prefix and path[: len(prefix)] != prefix and document.get((*prefix, path[0])) is not None:
            path = (*prefix, *path)
            break
    target = document.data
    for i, part in enumerate(path[:-1]):
        if isinstance(target, list) and isinstance(part, int) and part < len(target):
            target = target[part]
        elif isinstance(target, dict):
            if target.get(str(part)) is None:
                target[str(part)] = {}
                document.places[path[: i + 1]] = Place(span, span)
            target = target[str(part)]
        else:
            raise fail("GM108", f"`{dotted(path)}` cannot be set: `{dotted(path[:i])}` is not a mapping or list", span)
    last = path[-1]
    if isinstance(target, list):
        if not isinstance(last, int) or last >= len(target):
            raise fail("GM108", f"the list `{dotted(path[:-1])}` has no item `{last}`", span)
        target[last] = value
    elif isinstance(target, dict):
        target[str(last)] = value
    else:
        raise fail("GM108", f"`{dotted(path[:-1])}` is not a mapping, so `{last}` cannot be set in it", span)
    _drop_places(document, path)
    column = len(item) - len(text) + 1
    document.places[path] = Place(
        Span(SET_SOURCE, 1, column, max(len(text), 1), item), Span(SET_SOURCE, 1, 1, len(name), item)
    )
