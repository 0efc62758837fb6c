"""Reads YAML into plain data, with the location of every key and value in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from graphmodel.diagnostics import Collector, Span, fail, first_line
from graphmodel.spec.regular_files import other_than_a_file, path_help
from graphmodel.spec.scalars import MAX_DIGITS, plain_value, surrogate_in
from graphmodel.spec.syntax import syntax_error

KeyPath = tuple[str | int, ...]

MAX_BYTES = 4 * 1024 * 1024
"""Larger files are refused: the largest real configuration is under 50 KB."""
MAX_NODES = 200_000
"""The most values one file may expand to with aliases resolved; an alias bomb exceeds it after a few lines."""
MAX_DEPTH = 100
"""The deepest nesting."""

_UNTAGGED = "untagged"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's parser without its implicit types, so that explicit tags can be told from plain text."""

    DEFAULT_SCALAR_TAG = _UNTAGGED
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML reads the class attribute)


@dataclass(frozen=True)
class Place:
    """The location of a value, and of its key if it has one."""

    value: Span
    key: Span | None = None


@dataclass
class Document:
    """Plain data (dicts, lists, scalars) with the location of every value.

    Attributes:
        data: the contents.
        places: from the path of a value to its location; empty for data built in memory.
        files: the files it was read from, first to last.
        base: the first file that the user named; what it extends comes before it in `files`, overlays after it.
    """

    data: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    base: str = ""

    def span(self, path: Sequence[str | int], *, key: bool = False) -> Span | None:
        """The span at `path` or at its nearest ancestor with one; `key=True` prefers the key's own span."""
        for end in range(len(path), -1, -1):
            place = self.places.get(tuple(path[:end]))
            if place is not None:
                wants_key = key
                if end < len(path):
                    # What a mapping lacks is reported at its key; `trunk: resnet` is reported at its value, the name.
                    above = self.get(path[:end])
                    wants_key = above is None or isinstance(above, (dict, list))
                return place.key if wants_key and place.key is not None else place.value
        return None

    def get(self, path: Sequence[str | int], default: Any = None) -> Any:
        """The value at `path`, or `default`."""
        value = self.data
        for part in path:
            in_list = isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value)
            if not in_list and not (isinstance(value, Mapping) and part in value):
                return default
            value = value[part]
        return value


def dotted(path: Sequence[str | int]) -> str:
    """`("heads", "a", 0, "mlp")` as `heads.a[0].mlp`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read_file(
    path: str | Path, *, quote: bool = True, report: Collector | None = None, text: str | None = None
) -> Document:
    """Reads one YAML file.

    Args:
        path: the file.
        quote: whether findings may quote its lines.
        report: where duplicate keys go, after which reading goes on; without it they are raised.
        text: its contents if they are not those on the disk, as of a file that is open in an editor.

    Raises:
        CompileError: GM100 if the file cannot be read, else as `read_text`.
    """
    name = str(path)
    if text is not None:
        return read_text(text.removeprefix("\ufeff"), name, quote=quote, report=report)
    try:
        kind = other_than_a_file(Path(path))
        if kind:
            raise fail("GM100", f"{name!r} is {kind}, not a file", Span(name, 1, 1), "pass the path of a spec file")
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise fail("GM100", f"no such file: {name}", Span(name, 1, 1), path_help(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise fail("GM100", f"cannot read {name!r}: {reason}", Span(name, 1, 1)) from None
    if len(raw) > MAX_BYTES:
        raise fail(
            "GM104",
            f"{name} is larger than {MAX_BYTES // 1024 // 1024} MB, too large for a spec",
            Span(name, 1, 1),
            "a spec describes a model; keep data and weights in separate files",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise fail(
            "GM101", f"{name} is not UTF-8 text (byte {error.start})", Span(name, line, 1), "save the file as UTF-8"
        ) from None
    return read_text(text, name, quote=quote, report=report)


def read_text(text: str, name: str = "<string>", *, quote: bool = True, report: Collector | None = None) -> Document:
    """Reads YAML text.

    Args:
        text: the text.
        name: what findings call it.
        quote: whether they may quote its lines.
        report: where duplicate keys go, after which reading goes on; without it they are raised.

    Raises:
        CompileError: GM101 syntax, GM102 a duplicate key, GM103 aliases that expand without bound, GM104 too large,
            GM105 not a mapping, GM106 a tag or key that a spec cannot have. All of them are reported at once.
    """
    lines = text.splitlines() if quote else []
    if len(text) > MAX_BYTES:
        raise fail("GM104", f"{name} is too large for a spec", Span(name, 1, 1))
    surrogate = surrogate_in(text)
    if surrogate is not None:
        line = text.count("\n", 0, surrogate)
        column = surrogate - text.rfind("\n", 0, surrogate)
        raise fail(
            "GM101",
            f"half of a surrogate pair ({text[surrogate]!r}) is not a character",
            Span(name, line + 1, column, 1, text.split("\n")[line] if quote else ""),
            "delete it",
        )
    try:
        _refuse_depth(text, name, lines)
        documents = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        raise fail("GM101", *syntax_error(error, name, lines)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line = before.count("\n")
        span = Span(name, line + 1, error.position - before.rfind("\n"), 1, lines[line] if line < len(lines) else "")
        raise fail("GM101", f"not readable as YAML: {first_line(error)}", span, "delete the character") from None
    except yaml.YAMLError as error:
        raise fail("GM101", f"not readable as YAML: {first_line(error)}", Span(name, 1, 1)) from None
    if not documents or documents[0] is None:
        raise fail(
            "GM105",
            "the file is empty",
            Span(name, 1, 1),
            "`graphmodel init` writes a first spec, `graphmodel examples NAME` a complete one",
        )
    if len(documents) > 1:
        mark = documents[1].start_mark
        raise fail(
            "GM105",
            "the file contains more than one YAML document",
            _span(mark, mark, name, lines),
            "keep one spec per file, and overlays in separate files",
        )
    reader = _Reader(name, lines)
    data = reader.convert(documents[0], (), None, 0)
    found = reader.collector
    if report is None or any(d.code != "GM102" for d in found.errors):
        found.raise_errors()
    if not isinstance(data, dict):
        found.error(
            "GM105",
            f"a spec must be a mapping, not {kind_of(data)}",
            reader.places[()].value,
            "write `key: value` lines",
        )
        found.raise_errors()
    if report is not None:
        report.found += found.found
    return Document(data, reader.places, (name,))


def _refuse_depth(text: str, name: str, lines: list[str]) -> None:
    """Refuses deep nesting before it is composed: libyaml's composer recurses in C and would end the process."""
    flow = text.count("[") + text.count("{")
    block = max((len(line) - len(line.lstrip(" -?:\t")) for line in text.split("\n")), default=0)
    if flow + 2 * block < MAX_DEPTH:  # as for most files: none of them can be nested that deeply
        return
    try:
        _count_depth(text, name, lines, _Loader)
    except yaml.MarkedYAMLError as error:
        # libyaml 0.2.6 reads ahead and stops at a limit of its own; PyYAML's own scanner finds the position of ours.
        if "nesting" not in str(error.problem):
            raise
        _count_depth(text, name, lines, yaml.SafeLoader)
        raise


def _count_depth(text: str, name: str, lines: list[str], loader: Any) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                span = _span(event.start_mark, event.start_mark, name, lines)
                raise fail(
                    "GM104",
                    f"nested more than {MAX_DEPTH} levels deep",
                    span,
                    "flatten it: no model needs a spec that deep",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns PyYAML's nodes into data, recording locations and collecting errors."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines
        self.places: dict[KeyPath, Place] = {}
        self.collector = Collector()
        self.count = 0
        self.open: set[int] = set()

    def span(self, node: Any) -> Span:
        return _span(node.start_mark, node.end_mark, self.name, self.lines)

    def tally(self, node: Any, depth: int) -> None:
        """Counts a value, and refuses one too many, one that is too deep, and one inside itself."""
        self.count += 1
        if self.count > MAX_NODES or id(node) in self.open:
            why = "contains itself" if id(node) in self.open else f"expand to more than {MAX_NODES} values"
            what = "this value" if id(node) in self.open else "the aliases of this file"
            raise fail("GM103", f"{what} {why}", self.span(node), "write the value out, without `&` and `*`")
        if depth > MAX_DEPTH:  # by way of aliases
            raise fail("GM104", f"nested more than {MAX_DEPTH} levels deep", self.span(node))

    def convert(self, node: Any, path: KeyPath, key: Span | None, depth: int) -> Any:
        self.tally(node, depth)
        self.places[path] = Place(self.span(node), key)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        self.open.add(id(node))
        try:
            if not node.tag.startswith(("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")):
                self.bad_tag(node)
            if isinstance(node, yaml.SequenceNode):
                return [self.convert(child, (*path, i), None, depth + 1) for i, child in enumerate(node.value)]
            return self.mapping(node, path, depth)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: Any, path: KeyPath, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        seen: dict[str, Span] = {}
        merged: list[Any] = []
        repeated: list[tuple[str, Any]] = []
        for key_node, value_node in node.value:
            span = self.span(key_node)
            if _is_merge(key_node):
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "":
                self.collector.error("GM106", "a key must be text, not a list, a mapping or empty", span)
                continue
            name = key_node.value
            if name in seen:
                first = seen[name]
                self.collector.error(
                    "GM102",
                    f"duplicate key `{name}`; it is already at line {first.line}, column {first.column}",
                    span,
                    "YAML would keep only one of them: delete one, or move its contents into the other",
                )
                repeated.append((name, value_node))
                continue
            seen[name] = span
            out[name] = self.convert(value_node, (*path, name), span, depth + 1)
        for name, value_node in repeated:
            self.complete(out[name], value_node, (*path, name), depth + 1)
        for source in merged:
            for name, key_node, child in self.merged_items(source, depth + 1):
                if name not in out and name not in seen:
                    out[name] = self.convert(child, (*path, name), self.span(key_node), depth + 1)
        return out

    def complete(self, first: Any, node: Any, path: KeyPath, depth: int) -> None:
        """Adds what a duplicate key holds beside the first value of that key, so that what it defines is known.

        If the two give one of their keys different values, as two trunks do to `name`, only the first counts.
        """
        if not isinstance(first, dict) or not isinstance(node, yaml.MappingNode):
            return
        second = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode) and key.value]
        if any(
            isinstance(value, yaml.ScalarNode) and key.value in first and first[key.value] != plain_value(value.value)
            for key, value in second
        ):
            return
        self.tally(node, depth)
        self.open.add(id(node))
        for key, value in second:
            if key.value not in first and not _is_merge(key):
                first[key.value] = self.convert(value, (*path, key.value), self.span(key), depth + 1)
        self.open.discard(id(node))

    def merged_items(self, node: Any, depth: int) -> Iterator[tuple[str, Any, Any]]:
        """The keys and values that `<<` merges, those of the mapping itself before those that it merges in turn."""
        if not isinstance(node, yaml.MappingNode):
            self.collector.error("GM106", "`<<` can only merge mappings", self.span(node))
            return
        self.tally(node, depth)
        self.open.add(id(node))
        below: list[Any] = []
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                below += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif isinstance(key_node, yaml.ScalarNode):
                self.count += 1
                yield key_node.value, key_node, value_node
        for child in below:
            yield from self.merged_items(child, depth + 1)
        self.open.discard(id(node))

    def scalar(self, node: Any) -> Any:
        if len(node.value) > MAX_DIGITS and not node.style and node.value[:MAX_DIGITS].lstrip("+-").isdigit():
            what = f"a number of {len(node.value)} characters is too long"
            self.collector.error("GM106", what, self.span(node), "quote it if it is meant as text")
            return None
        if node.tag == _UNTAGGED:
            return node.value if node.style else plain_value(node.value)
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        convert: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
        if tag not in convert:
            self.bad_tag(node)
            return None
        try:
            return convert[tag](node.value)
        except ValueError:
            self.collector.error("GM106", f"`{node.value}` is not a valid `{node.tag}`", self.span(node))
            return None

    def bad_tag(self, node: Any) -> None:
        self.collector.error(
            "GM106",
            f"the tag `{node.tag}` is not allowed in a spec",
            self.span(node),
            "a spec is plain data: mappings, lists, numbers and text",
        )


def kind_of(value: Any) -> str:
    """`a list`, `a number`, … for messages."""
    if value is None:
        return "nothing"
    for types, name in (
        ((bool,), "a boolean"),
        ((int, float), "a number"),
        ((str,), "text"),
        ((list, tuple), "a list"),
        ((Mapping,), "a mapping"),
    ):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"


def _is_merge(key: Any) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == _UNTAGGED and key.value == "<<" and not key.style


def _span(start: Any, end: Any, name: str, lines: list[str]) -> Span:
    text = lines[start.line] if start.line < len(lines) else ""
    length = end.column - start.column if end.line == start.line else len(text.rstrip()) - start.column
    return Span(name, start.line + 1, start.column + 1, max(1, length), text)
