"""Merges documents: overlays over a base, and `--set path=value` overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from graphmodel.diagnostics import CompileError, Span, choices_help, fail
from graphmodel.spec.document import MAX_DEPTH, Document, KeyPath, Place, dotted, read_text
from graphmodel.spec.scalars import MAX_DIGITS, surrogate_in

SET_SOURCE = "<--set>"
_INDEX = re.compile(r"\[([0-9]{1,9})\]")
_NUMBER = re.compile(r"[0-9]{1,9}")


def merge(documents: Sequence[Document]) -> Document:
    """Later documents over earlier ones: mappings merge key by key, everything else is replaced.

    Every value keeps its location in the document it came from.
    """
    out = Document({}, {}, ())
    for document in documents:
        if () in document.places:
            out.places.setdefault((), document.places[()])
        _overlay(out, document, (), document.data)
    out.base = documents[0].base if documents else ""
    out.files = tuple(dict.fromkeys(f for document in documents for f in document.files))
    return out


def _overlay(base: Document, top: Document, path: KeyPath, value: dict[str, Any]) -> None:
    target = base.get(path)
    for key, new in value.items():
        here = (*path, key)
        old = target.get(key)
        if isinstance(new, dict) and isinstance(old, dict):
            _overlay(base, top, here, new)
            if here in top.places:
                base.places[here] = top.places[here]
        else:
            _drop_places(base, here, old)
            target[key] = _copy(new)
            for below in _paths(new, here):
                if below in top.places:
                    base.places[below] = top.places[below]


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value and of everything in it."""
    yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _paths(child, (*path, key))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _paths(child, (*path, i))


def _drop_places(document: Document, path: KeyPath, value: Any) -> None:
    """Forgets the locations of a value that is replaced."""
    for old in _paths(value, path):
        document.places.pop(old, None)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(v) for v in value]
    return value


def from_mapping(data: Any) -> Document:
    """A document for a mapping that is already in memory; the caller's object is never changed.

    Raises:
        CompileError: GM104 if it is nested too deeply (or contains itself), GM106 if a key is not text or
            empty, or a value could not be written to a file.
    """

    def check(value: Any, path: KeyPath) -> None:
        if len(path) > MAX_DEPTH:
            raise fail("GM104", f"nested more than {MAX_DEPTH} levels deep, or it contains itself", path=dotted(path))
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str):
                    raise fail("GM106", f"the key `{key!r}` is not text", path=dotted(path))
                if not key:
                    raise fail("GM106", "a key is empty", path=dotted(path))
                check(key, path)
                check(child, (*path, key))
        elif isinstance(value, (list, tuple)):
            for i, child in enumerate(value):
                check(child, (*path, i))
        elif isinstance(value, str) and surrogate_in(value) is not None:
            raise fail("GM106", f"half of a surrogate pair is not a character: {value!r}", path=dotted(path))
        elif isinstance(value, int) and value.bit_length() > 3 * MAX_DIGITS:
            raise fail("GM106", f"a number of {value.bit_length()} bits is too large", path=dotted(path))

    check(data, ())
    return Document(_copy(data), {}, ())


def parse_path(text: str) -> KeyPath:
    """`a.b[0].c` or `a.b.0.c` as a path."""
    spread = _INDEX.sub(r".\1", text)
    return tuple(int(part) if _NUMBER.fullmatch(part) else part for part in spread.split("."))


def apply_overrides(
    document: Document, overrides: Sequence[str], prefixes: Sequence[KeyPath] = ((),), named: Sequence[str] = ()
) -> Document:
    """Sets `path=value` items; the value is YAML. The result is a new document.

    Args:
        document: the merged files.
        overrides: `a.b.c=value` items, applied in order.
        prefixes: where a path may start, tried in order: VISSL's own form starts at `config.`.
        named: sections whose keys are the user's own names; a new one is an error without a `+` before the path.

    Raises:
        CompileError: GM108 if an item has no `=`, its value is not valid YAML, or its path goes through a value that is
            not a mapping or list. All bad items are reported.
    """
    out = merge([document])
    problems = []
    for item in overrides:
        try:
            _override(out, item, prefixes, named)
        except CompileError as error:
            problems += error.diagnostics
    if problems:
        raise CompileError(problems)
    return out


def _override(document: Document, item: str, prefixes: Sequence[KeyPath], named: Sequence[str]) -> None:
    span = Span(SET_SOURCE, 1, 1, max(len(item), 1), item)
    name, equals, text = item.partition("=")
    adds = name.strip().startswith("+")
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
    unread = next((part for part in path if isinstance(part, str) and ("[" in part or "]" in part)), None)
    if unread is not None:
        message = f"`{name}` is not a valid path: the index in `{unread}` is not a whole number"
        raise fail("GM108", message, span, "items of a list are counted from 0: `heads.a[0]`")
    if len(path) > MAX_DEPTH:
        raise fail("GM108", f"`{name}` is not a valid path: it is more than {MAX_DEPTH} levels deep", span)
    for prefix in prefixes:
        if prefix and path[: len(prefix)] != prefix and document.get((*prefix, path[0])) is not None:
            path = (*prefix, *path)
            break
    section = document.get(path[:1])
    if not adds and len(path) > 1 and path[0] in named and isinstance(section, dict) and path[1] not in section:
        message = f"`{dotted(path)}` cannot be set: `{path[0]}` has no `{path[1]}`"
        known = choices_help(path[1], list(section), str(path[0]))
        raise fail("GM108", message, span, f"{known}; to add one, write `+{item[:100]}`")
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
        old, target[last] = target[last], value
    elif isinstance(target, dict):
        old, target[str(last)] = target.get(str(last)), value
    else:
        message = f"`{dotted(path[:-1])}` is not a mapping, so `{last}` cannot be set in it"
        raise fail(
            "GM108", message, span, f"set the whole value, such as `{dotted(path[:-1])}={{name: resnet, depth: 18}}`"
        )
    _drop_places(document, path, old)
    column = len(item) - len(text) + 1
    document.places[path] = Place(
        Span(SET_SOURCE, 1, column, max(len(text), 1), item), Span(SET_SOURCE, 1, 1, len(name), item)
    )
