"""Completion: keys and words of the format, names of the spec, components of the catalogue, features with shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphmodel.lsp.catalogue import Catalogue
from graphmodel.lsp.cursor import Cursor, cursors
from graphmodel.lsp.documents import OpenDocument
from graphmodel.lsp.positions import Range
from graphmodel.lsp.scope import Scope, scope_of
from graphmodel.lsp.session import Session
from graphmodel.spec.document import KeyPath

MOST = 400
"""The most entries that are sent at once; with more, the editor asks again after the next letter."""

_FIELD, _CLASS, _MODULE, _PROPERTY, _VALUE, _REFERENCE = 5, 7, 9, 10, 12, 18


@dataclass(frozen=True)
class Entry:
    """One completion.

    Attributes:
        name: what is inserted.
        kind: its kind in the protocol.
        detail: what is shown beside it.
        text: its documentation.
        rank: entries of a lower rank are listed first.
    """

    name: str
    kind: int
    detail: str = ""
    text: str = ""
    rank: int = 1


def complete(session: Session, document: OpenDocument, offset: int) -> dict[str, Any]:
    """The completions at a place in a document."""
    text = document.text
    if session.catalogue is None or not (document.is_spec or len(text.text) < 200):
        return {"isIncomplete": True, "items": []}
    known = session.known_of(document)
    spec = known.good.spec if known.good is not None else None
    items: list[dict[str, Any]] = []
    for cursor in cursors(text.text, offset):
        dialect = _dialect(cursor.data, spec.dialect if spec is not None else "native")
        scope = scope_of(cursor.data, spec)
        made = _Completer(session, session.catalogue, scope, cursor, dialect)
        range_ = text.range(cursor.start, cursor.end)
        items += [_item(e, cursor, range_) for e in made.entries() if _matches(e.name, cursor.word)]
    unique = list({(i["label"], i["textEdit"]["newText"]): i for i in items}.values())
    unique.sort(key=lambda i: (i["sortText"], i["label"]))
    return {"isIncomplete": len(unique) > MOST or _is_waiting(session), "items": unique[:MOST]}


def _is_waiting(session: Session) -> bool:
    """Whether features are still computed: the editor asks again then."""
    return any(isinstance(key, tuple) and key[0] == "trunk" for key in session.worker.waiting)


def _dialect(data: Any, last: str) -> str:
    if isinstance(data, dict):
        if "MODEL" in data or "config" in data:
            return "vissl"
        if "graphmodel" in data or "trunk" in data or "trunks" in data:
            return "native"
    return last


def _matches(name: str, word: str) -> bool:
    """Whether the letters of a word are in a name in this order; editors sort what is left."""
    rest = iter(name.lower())
    return all(letter in rest for letter in word.lower())


def _item(entry: Entry, cursor: Cursor, range_: Range) -> dict[str, Any]:
    new = f"{entry.name}: " if cursor.is_key and not cursor.has_colon else entry.name
    item: dict[str, Any] = {
        "label": entry.name,
        "kind": entry.kind,
        "filterText": entry.name,
        "sortText": f"{entry.rank}{int(cursor.word.lower() not in entry.name.lower())}",
        "textEdit": {"range": range_, "newText": new},
    }
    if entry.detail:
        item["detail"] = entry.detail
    if entry.text:
        item["documentation"] = {"kind": "markdown", "value": entry.text}
    return item


@dataclass(frozen=True)
class _Completer:
    session: Session
    catalogue: Catalogue
    scope: Scope
    cursor: Cursor
    dialect: str

    def entries(self) -> Iterator[Entry]:
        keys = self.catalogue.keys(self.dialect if self.dialect in self.catalogue.schemas else "native")
        path, data = self.cursor.path, self.cursor.data
        written = _at(data, path) if self.cursor.is_key else None
        taken = set(written) if isinstance(written, dict) else set()
        heads = self.catalogue.heads.keys()
        if path[:1] == ("heads",) and len(path) in (2, 3) and ("copy" in taken or taken & heads):
            taken |= heads  # it has its module
        names = self.native(path) if self.dialect == "native" else self.vissl(path)
        yield from (entry for entry in names if entry.name not in taken)
        if self.cursor.is_key:
            head = self.vissl_head(path)  # the schema has the parameters of every head
            for key in keys.keys(path, data).values() if head is None else ():
                if key.name not in taken:
                    yield Entry(key.name, _PROPERTY, key.detail(), key.description, 0 if key.required else 1)
            yield from self.library_parameters(path, taken)
        else:
            for word in keys.values(path, data):
                yield Entry(word, _VALUE)

    # -- the native format --------------------------------------------------------------------------------------------

    def native(self, path: KeyPath) -> Iterator[Entry]:
        """Names, by the place where they are written."""
        match path:
            case ("trunk",) | ("trunk", "name") | ("trunks", _) | ("trunks", _, "name") if not self.cursor.is_key:
                yield from self.trunk_names()
            case ("trunks", _, "copy") if not self.cursor.is_key:
                yield from self.named(self.scope.trunks, "trunk")
            case ("heads", _) | ("heads", _, int()) | ("grid", _, "head"):
                yield from self.head_names()
            case ("heads", _, "copy") if not self.cursor.is_key:
                yield from self.named(self.scope.heads, "head")
            case ("inputs", _, "with", int()) if not self.cursor.is_key:
                yield from self.named(self.scope.inputs, "input")
            case ("mapping",) if self.cursor.is_key:
                yield from self.inputs()
                yield from self.named(self.scope.outputs, "output")
            case ("mapping", str(name)) if self.cursor.is_key:
                yield from self.features(name)
            case ("mapping", str(name)):
                yield from self.named(self.scope.heads, "head")
            case (
                ("mapping", str(), _)
                | ("mapping", str(), _, "head" | "heads" | int())
                | ("mapping", str(), _, "heads", _)
            ):
                yield from self.named(self.scope.heads, "head") if not self.cursor.is_key else ()
            case ("mapping", int(), "head") if not self.cursor.is_key:
                yield from self.named(self.scope.heads, "head")
            case ("mapping", int(), "from", *rest) if not self.cursor.is_key and (not rest or rest[-1] != "as"):
                yield from self.sources()
            case ("outputs", *_) if not self.cursor.is_key:
                yield from self.named(self.scope.kept or self.scope.heads, "output")
            case ("freeze",) | ("freeze", int()) if not self.cursor.is_key:
                yield from self.named(
                    {**self.scope.trunks, **{f"heads.{h}": None for h in self.scope.heads}}, "component"
                )
            case ("head_settings",) if self.cursor.is_key:
                yield from self.named(self.scope.heads, "head")
            case ("grid", _, "layers", *_):
                yield from self.features("")
            case ("grid", _, "input"):
                yield from self.inputs()

    def trunk_names(self) -> Iterator[Entry]:
        for name in self.catalogue.trunk_names:
            row = self.catalogue.trunks.get(name)
            library = name.partition(":")[0] if ":" in name else ""
            yield Entry(name, _MODULE, row["summary"] if row else f"a model of {library}", rank=2 if library else 1)

    def head_names(self) -> Iterator[Entry]:
        for name, row in self.catalogue.heads.items():
            yield Entry(name, _CLASS, row["summary"])

    def named(self, names: Any, what: str) -> Iterator[Entry]:
        for name in names:
            yield Entry(name, _REFERENCE, what, rank=0)

    def inputs(self) -> Iterator[Entry]:
        for name, shapes in self.scope.inputs.items():
            yield Entry(name, _REFERENCE, ", ".join("×".join(map(str, s)) for s in shapes) or "input", rank=0)

    def features(self, input: str) -> Iterator[Entry]:
        """The features of the trunk at the size of an input, with their shapes; with several trunks, of each."""
        several = len(self.scope.trunks) > 1
        for trunk in self.scope.trunks:
            for row in self.scope.features(self.session.pages, input if input in self.scope.inputs else "", trunk):
                name = f"{trunk}.{row['name']}" if several else row["name"]
                text = f"`{row['module']}`, {row['layout']}" if row["module"] else row["layout"]
                yield Entry(name, _FIELD, row["shape"], text, 0)

    def sources(self) -> Iterator[Entry]:
        for name in self.scope.inputs:
            for entry in self.features(name):
                yield Entry(f"{name}.{entry.name}", entry.kind, entry.detail, entry.text, 0)
        yield from self.inputs()
        yield from self.named(self.scope.outputs, "output")

    def library_parameters(self, path: KeyPath, taken: set[str]) -> Iterator[Entry]:
        """The keyword arguments of a library's model, which only the library knows."""
        if self.dialect != "native" or path[:1] not in (("trunk",), ("trunks",)):
            return
        value = _at(self.cursor.data, path)
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or ":" not in name:
            return
        page = self.session.pages.find(name, {}, None)
        for row in (page or {}).get("parameters", ()):
            if row["name"] not in taken:
                yield Entry(row["name"], _PROPERTY, f"{row['type']} = {row['default']}", row["description"])

    def vissl_head(self, path: KeyPath) -> Mapping[str, Any] | None:
        """The head of a VISSL file whose parameters are at a path."""
        if self.dialect != "vissl" or path[-1:] != (1,):
            return None
        head = _at(self.cursor.data, (*path[:-1], 0))
        return self.catalogue.heads.get(head) if "PARAMS" in path and isinstance(head, str) else None

    # -- VISSL --------------------------------------------------------------------------------------------------------

    def vissl(self, path: KeyPath) -> Iterator[Entry]:
        """Names in a VISSL file, by the place where they are written."""
        inner = path[path.index("MODEL") + 1 :] if "MODEL" in path else ()
        match inner:
            case ("TRUNK", "NAME") if not self.cursor.is_key:
                for name, row in self.catalogue.trunks.items():
                    if not row["library"]:
                        yield Entry(name, _MODULE, row["summary"])
            case ("HEAD", "PARAMS", int(), 0) | ("HEAD", "PARAMS", int(), int(), 0) if not self.cursor.is_key:
                yield from self.head_names()
            case ("HEAD", "PARAMS", *_) if self.cursor.is_key:
                found = self.vissl_head(path)
                for p in found["parameters"] if found is not None else ():
                    detail = f"{p['type']} (required)" if p["required"] else f"{p['type']} = {p['default']}"
                    yield Entry(p["name"], _PROPERTY, detail, p["description"])
            case ("MULTI_INPUT_HEAD_MAPPING", int(), 0) if not self.cursor.is_key:
                yield from self.inputs()
            case ("MULTI_INPUT_HEAD_MAPPING", int(), 1, *_) | (
                "FEATURE_EVAL_SETTINGS",
                "LINEAR_EVAL_FEAT_POOL_OPS_MAP",
                int(),
                0,
            ) if not self.cursor.is_key:
                yield from self.features("")


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data
