"""The names that a spec defines and uses: definitions, references, and renaming."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphmodel.diagnostics import Collector, CompileError, Span
from graphmodel.lsp.documents import OpenDocument, resolved
from graphmodel.lsp.session import Session
from graphmodel.spec.document import Document, KeyPath, read_text
from graphmodel.spec.names import name_problem

Kind = Literal["input", "trunk", "head", "output"]
WHAT = {"input": "an input", "trunk": "a trunk", "head": "a head", "output": "an output"}


@dataclass(frozen=True)
class Occurrence:
    """One place where a name is written.

    Attributes:
        kind: what the name is of.
        name: the name.
        span: where the key or value that has it is written.
        offset: where the name starts in that text.
        is_definition: whether it defines the name.
    """

    kind: Kind
    name: str
    span: Span
    offset: int = 0
    is_definition: bool = False


@dataclass(frozen=True)
class _Names:
    """The names that all files of a spec define."""

    inputs: frozenset[str]
    trunks: frozenset[str]
    heads: frozenset[str]
    outputs: frozenset[str]
    are_inputs_declared: bool

    def of_source(self, name: str) -> Kind | None:
        """What the first part of a source names."""
        if name in self.inputs:
            return "input"
        return "output" if name in self.outputs else "head" if name in self.heads else None


def occurrences(documents: list[Document]) -> list[Occurrence]:
    """Every place where the files of a native spec write a name that one of them defines."""
    names = _names(documents)
    return [o for document in documents for o in _of_document(document, names)]


def _names(documents: list[Document]) -> _Names:
    found: dict[str, set[str]] = {"inputs": set(), "trunks": set(), "heads": set(), "outputs": set()}
    declared = any(document.data.get("inputs") is not None for document in documents)
    for document in documents:
        for section in ("inputs", "trunks", "heads"):
            value = document.data.get(section)
            found[section] |= set(value) if isinstance(value, dict) else set()
        found["outputs"] |= {str(document.get(path)) for path in _paths(document, "as")}
        mapping = document.data.get("mapping")
        if not declared and isinstance(mapping, dict):
            found["inputs"] |= set(mapping) - found["heads"]
    return _Names(**{key: frozenset(value) for key, value in found.items()}, are_inputs_declared=declared)


def _paths(document: Document, key: str) -> Iterator[KeyPath]:
    """The paths in the mapping that end in a key whose value is text."""
    for path in document.places:
        is_text = path[:1] == ("mapping",) and path[-1:] == (key,) and isinstance(document.get(path), str)
        # `as` of one of several sources is its key in a dict, not the name of an output.
        if is_text and (key != "as" or "from" not in path):
            yield path


def _of_document(document: Document, names: _Names) -> Iterator[Occurrence]:
    for path, place in document.places.items():
        value = document.get(path)
        text = value if isinstance(value, str) else ""
        match path:
            case ("inputs" | "trunks" | "heads" as section, str(name)) if place.key is not None:
                kind: Any = section[:-1]
                yield Occurrence(kind, name, place.key, is_definition=True)
            case ("inputs", _, "with", int()) if text in names.inputs:
                yield Occurrence("input", text, place.value)
            case ("trunks", _, "copy") if text in names.trunks:
                yield Occurrence("trunk", text, place.value)
            case ("heads", _, "copy") if text in names.heads:
                yield Occurrence("head", text, place.value)
            case ("head_settings", str(name)) if name in names.heads and place.key is not None:
                yield Occurrence("head", name, place.key)
            case ("freeze",) | ("freeze", int()) if text:
                yield from _frozen(text, place.value, names)
            case ("outputs", *_) if text:
                yield from _output(text, place.value, names)
            case ("grid", _, "input") if text in names.inputs:
                yield Occurrence("input", text, place.value)
            case ("mapping", *_):
                yield from _mapped(path, text, place.key, place.value, document, names)


def _mapped(
    path: KeyPath, text: str, key: Span | None, value: Span, document: Document, names: _Names
) -> Iterator[Occurrence]:
    short = isinstance(document.data.get("mapping"), dict)
    if short and len(path) == 2 and key is not None and isinstance(path[1], str):
        kind = names.of_source(path[1])
        if kind is not None:
            defines = kind == "input" and not names.are_inputs_declared
            yield Occurrence(kind, path[1], key, is_definition=defines)
    if short and len(path) == 3 and key is not None and isinstance(path[2], str):
        trunk, dot, _ = path[2].partition(".")
        if trunk in names.trunks and (dot or len(names.trunks) > 1):
            yield Occurrence("trunk", trunk, key)
    if not text:
        return
    if path[-1] == "as" and "from" not in path:
        yield Occurrence("output", text, value, is_definition=True)
    elif path[-1] == "from" or (len(path) > 2 and path[-2] == "from" and isinstance(path[-1], int)):
        yield from _source(text, value, names)
    elif text in names.heads and (path[-1] in ("head", "heads") or (short and len(path) <= 4) or "heads" in path[-2:]):
        yield Occurrence("head", text, value)


def _source(text: str, span: Span, names: _Names) -> Iterator[Occurrence]:
    """The input, and the trunk, that `images.student.res4` names."""
    first, _, rest = text.partition(".")
    kind = names.of_source(first)
    if kind is None:
        return
    yield Occurrence(kind, first, span)
    trunk, dot, _ = rest.partition(".")
    if kind == "input" and trunk in names.trunks and (dot or len(names.trunks) > 1):
        yield Occurrence("trunk", trunk, span, len(first) + 1)


def _frozen(text: str, span: Span, names: _Names) -> Iterator[Occurrence]:
    parts = text.split(".")
    if parts[0] in ("heads", "trunks") and len(parts) > 1:
        kind: Kind = "head" if parts[0] == "heads" else "trunk"
        if parts[1] in (names.heads if kind == "head" else names.trunks):
            yield Occurrence(kind, parts[1], span, len(parts[0]) + 1)
    elif parts[0] in names.trunks:
        yield Occurrence("trunk", parts[0], span)


def _output(text: str, span: Span, names: _Names) -> Iterator[Occurrence]:
    name = text.partition(".")[0]
    if name in names.outputs:
        yield Occurrence("output", name, span)
    elif name in names.heads:  # an output without a name of its own has that of its head
        yield Occurrence("head", name, span)


# -- answers ----------------------------------------------------------------------------------------------------------


def _documents(session: Session, document: OpenDocument) -> list[Document]:
    """The files of the native spec that a document belongs to, each as it is now; those of all specs that read it."""
    paths = [document.path]
    for target in session.targets_of(document):
        known = session.known.get(target)
        paths += [resolved(Path(name)) for name in known.checked.files] if known is not None else list(target)
    found = []
    for path in dict.fromkeys(paths):
        try:
            read = read_text(session.documents.text_of(path).text, str(path), report=Collector())
        except CompileError:
            continue
        if "MODEL" not in read.data and "config" not in read.data:
            found.append(read)
    return found


def _located(session: Session, occurrence: Occurrence) -> tuple[str, Any]:
    """The address and the range of an occurrence."""
    path = Path(occurrence.span.file)
    text = session.documents.text_of(path)
    start, end = text.span_offsets(occurrence.span)
    at = text.text.find(occurrence.name, start + occurrence.offset, end)
    at = start if at < 0 else at
    return session.documents.uri_of(path), text.range(at, at + len(occurrence.name))


def _all(session: Session, document: OpenDocument) -> list[tuple[Occurrence, str, Any]]:
    return [(o, *_located(session, o)) for o in occurrences(_documents(session, document))]


def _under(session: Session, document: OpenDocument, position: Any) -> tuple[list[tuple[Occurrence, str, Any]], Any]:
    """All occurrences, and the one at a position with its address and range; None if there is none."""
    from graphmodel.lsp.positions import contains

    found = _all(session, document)
    here = [f for f in found if f[1] == document.uri and contains(f[2], position)]
    return found, min(here, key=lambda f: len(f[0].name), default=None)


def _same(found: list[tuple[Occurrence, str, Any]], one: Occurrence) -> list[tuple[Occurrence, str, Any]]:
    return [f for f in found if (f[0].kind, f[0].name) == (one.kind, one.name)]


def definition(session: Session, document: OpenDocument, position: Any) -> list[dict[str, Any]]:
    """Where the name at a position is defined; the file that `extends` names."""
    found, here = _under(session, document, position)
    if here is not None:
        return [{"uri": uri, "range": range_} for o, uri, range_ in _same(found, here[0]) if o.is_definition]
    line = document.text.line(position["line"])
    for name in re.findall(r"[\w./-]+\.ya?ml", line):
        path = resolved(document.path.parent / name)
        start = line.index(name)
        if not line.lstrip().startswith(("extends", "-")) or not start <= position["character"] <= start + len(name):
            continue
        if session.documents.at(path) is not None or path.is_file():
            zero = {"line": 0, "character": 0}
            return [{"uri": session.documents.uri_of(path), "range": {"start": zero, "end": zero}}]
    return []


def references(
    session: Session, document: OpenDocument, position: Any, *, with_definition: bool
) -> list[dict[str, Any]]:
    """Every place that uses the name at a position."""
    found, here = _under(session, document, position)
    if here is None:
        return []
    same = _same(found, here[0])
    return [{"uri": u, "range": r} for o, u, r in same if with_definition or not o.is_definition]


def highlights(session: Session, document: OpenDocument, position: Any) -> list[dict[str, Any]]:
    """The places in a document that use the name at a position."""
    found = references(session, document, position, with_definition=True)
    return [{"range": f["range"]} for f in found if f["uri"] == document.uri]


def prepare_rename(session: Session, document: OpenDocument, position: Any) -> dict[str, Any] | None:
    """The range of the name at a position that can be renamed; None if none can be."""
    found, here = _under(session, document, position)
    if here is None or not any(o.is_definition for o, _, _ in _same(found, here[0])):
        return None
    return {"range": here[2], "placeholder": here[0].name}


class CannotRename(Exception):
    """Why a name cannot be changed to another."""


def rename(session: Session, document: OpenDocument, position: Any, new: str) -> dict[str, Any]:
    """The edits that rename what is at a position, in all files of the spec.

    Raises:
        CannotRename: if nothing there has a name, or the new one is not valid or taken.
    """
    found, here = _under(session, document, position)
    if here is None or prepare_rename(session, document, position) is None:
        raise CannotRename("there is no name of an input, a trunk, a head or an output here")
    kind = here[0].kind
    problem = name_problem(new, WHAT[kind])
    if problem is not None:
        raise CannotRename(": ".join(part for part in problem if part))
    if read_text(f"name: {new}", report=Collector()).data["name"] != new:
        raise CannotRename(f"`{new}` cannot name {WHAT[kind]}: YAML does not read it as text")
    if new != here[0].name and any(o.name == new and o.is_definition for o, _, _ in found):
        raise CannotRename(f"`{new}` is taken")
    changes: dict[str, list[dict[str, Any]]] = {}
    for _, uri, range_ in _same(found, here[0]):
        changes.setdefault(uri, []).append({"range": range_, "newText": new})
    for output, span in _derived_outputs(session, document, kind, here[0].name):
        raise CannotRename(
            f"`outputs` names `{output}` in line {span.line}, which is made of `{here[0].name}`: "
            "give that output a name with `as` first"
        )
    return {"changes": changes}


def _derived_outputs(session: Session, document: OpenDocument, kind: Kind, name: str) -> Iterator[tuple[str, Span]]:
    """The names in `outputs` that the compiler makes of a name: `label_images`, if a head reads several inputs."""
    part = re.compile(rf"(?:^|_){re.escape(name)}(?:_|$)")
    for target in session.targets_of(document):
        known = session.known.get(target)
        spec = known.good.spec if known is not None and known.good is not None else None
        made: set[str] = set()
        for edge in spec.edges if spec is not None else ():
            sources = {s.input if kind == "input" else s.trunk for s in edge.sources}
            if name == edge.head if kind == "head" else name in sources:
                made.add(edge.output)
        documents = _documents(session, document) if made else []
        made -= {str(read.get(path)) for read in documents for path in _paths(read, "as")}
        for read in documents:
            for path, place in read.places.items():
                text = read.get(path) if path[:1] == ("outputs",) else None
                if isinstance(text, str) and text in made and text != name and part.search(text):
                    yield text, place.value
