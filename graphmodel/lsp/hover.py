"""Hover: what a key means, and what a name stands for: shapes, parameters, operations, documentation, source."""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphmodel.components.index import builtin
from graphmodel.diagnostics import Collector, CompileError
from graphmodel.lsp.cursor import place_at
from graphmodel.lsp.documents import OpenDocument, to_uri
from graphmodel.lsp.scope import Scope, scope_of
from graphmodel.lsp.session import Known, Session
from graphmodel.profiling.units import count, si
from graphmodel.spec.document import KeyPath, read_text


def hover(session: Session, document: OpenDocument, position: Any) -> dict[str, Any] | None:
    """What is shown for a position; None if nothing is known of it."""
    text = document.text
    try:
        read = read_text(text.text, str(document.path), report=Collector())
    except CompileError:
        return None
    offset = text.offset(position)
    line_start = max(s for s in text.yaml_starts if s <= offset)
    line = text.yaml_starts.index(line_start) + 1
    place = place_at(read.places, str(document.path), line, offset - line_start + 1)
    if place is None or session.catalogue is None:
        return None
    path, is_key = place
    known = session.known_of(document)
    spec = known.good.spec if known.good is not None else None
    is_vissl = "MODEL" in read.data or "config" in read.data
    scope = scope_of(read.data, spec)
    parts = [
        *_named(session, known, scope, path, read.get(path), is_key),
        *_key(session, path, read.data, is_key, is_vissl),
    ]
    if not parts:
        return None
    found = read.places[path]
    span = found.key if is_key and found.key is not None else found.value
    return {"contents": {"kind": "markdown", "value": "\n\n".join(parts)}, "range": text.span_range(span)}


def _key(session: Session, path: KeyPath, data: Any, is_key: bool, is_vissl: bool) -> list[str]:
    if not is_key or session.catalogue is None:
        return []
    key = session.catalogue.keys("vissl" if is_vissl else "native").key(path, data)
    if key is None:
        return []
    return [f"**{key.name}**: `{key.detail()}`", *([key.description] if key.description else [])]


def _named(session: Session, known: Known, scope: Scope, path: KeyPath, value: Any, is_key: bool) -> list[str]:
    """What is known of the trunk, head, input or feature at a path."""
    word = path[-1] if is_key and path else value
    inner = path[path.index("MODEL") + 1 :] if "MODEL" in path else path
    match inner:
        case ("trunk",) | ("trunk", "name") | ("trunks", _) | ("trunks", _, "name") | ("TRUNK", "NAME"):
            name = "trunk" if inner[0] in ("trunk", "TRUNK") else str(inner[1])
            return _trunk(session, known, scope, name)
        case ("HEAD", "PARAMS", *_) if isinstance(word, str) and not is_key:
            return _module(session, word)
        case ("heads", str(name)) if is_key:
            return _head(known, name)
        case ("heads", str(), *_) if isinstance(word, str):
            return _module(session, word)
        case ("inputs", str(name)) if is_key and known.model is not None and name in known.model["inputs"]:
            return [f"input `{name}`: `{known.model['inputs'][name]}`"]
        case ("mapping", *_):
            return _edge(known, path, word)
    return []


def _trunk(session: Session, known: Known, scope: Scope, name: str) -> list[str]:
    family, params = scope.trunks.get(name, ("", {}))
    if not family or session.catalogue is None:
        return []
    row = session.catalogue.trunks.get(family.partition(":")[0])
    parts = [f"trunk `{family}`" + (f": {row['summary']}" if row is not None and ":" not in family else "")]
    paths = [p for p in (f"trunks.{name}", name, "trunk") if p in known.costs]
    if paths and known.complete_revision == known.revision:
        parts.append(_cost(known.costs[paths[0]], "used by this spec"))
    shapes = [s for sizes in scope.inputs.values() for s in sizes]
    page = session.pages.find(family, params, shapes[0] if shapes else None)
    if page is not None and "problem" not in page and page["features"]:
        size = "×".join(str(n) for n in page["input"])
        rows = [f"| `{f['name']}` | {f['shape']} | {f['stride'] or ''} | {f['module']} |" for f in page["features"]]
        parts.append(f"{count(page['parameter_count'])} parameters in all")
        parts.append("\n".join([f"| feature at {size} | shape | stride | module |", "|---|---|---|---|", *rows[:40]]))
    if row is not None:
        parts.append(f"Source: `{row['source']}`")
    found = _documented("trunk", family.partition(":")[0])
    return [*parts, *([_link(found)] if found is not None else [])]


def _head(known: Known, name: str) -> list[str]:
    if known.model is None or known.complete_revision != known.revision:
        return []
    parts = [f"head `{name}`"]
    for edge in known.model["edges"]:
        if edge["head"] == name:
            read = ", ".join(s["shape"] for s in edge["sources"])
            written = ", ".join(f"{key}: {shape}" for key, shape in edge["shapes"].items())
            parts.append(f"`{read}` → `{written}`")
    for path, cost in known.costs.items():
        if path == f"heads.{name}" or path.startswith(f"heads.{name}."):
            parts.append(f"`{cost['family']}` → `{cost['shape']}`, {_cost(cost, '')}")
    return parts


def _cost(cost: dict[str, Any], where: str) -> str:
    frozen = cost["parameters"] - cost["trainable"]
    numbers = f"{count(cost['parameters'])} parameters" + (f" ({count(frozen)} frozen)" if frozen else "")
    return f"{numbers}, {si(cost['flops'])} FLOPs per sample" + (f", {where}" if where else "")


def _edge(known: Known, path: KeyPath, word: Any) -> list[str]:
    if known.model is None or known.complete_revision != known.revision:
        return []
    parts = []
    for edge in known.model["edges"]:
        parts += [f"`{word}`: `{s['shape']}`" for s in edge["sources"] if tuple(s["at"]) == path]
        at = tuple(edge["at"])
        if edge["head"] is not None and word == edge["head"] and (path == at or path[: len(at)] == at):
            parts += [f"output `{key}`: `{shape}`" for key, shape in edge["shapes"].items()]
    return list(dict.fromkeys(parts))


def _module(session: Session, name: str) -> list[str]:
    row = session.catalogue.heads.get(name) if session.catalogue is not None else None
    if row is None:
        return []
    found = _documented("head", name)
    rows = [_parameter(p) for p in row["parameters"]]
    table = ["\n".join(["| parameter | type | default | |", "|---|---|---|---|", *rows])] if rows else []
    text = found[2] if found is not None else row["summary"]
    return [f"head `{name}`", text, *table, *([_link(found)] if found is not None else [])]


def _parameter(p: Any) -> str:
    """A parameter as a row of a table."""
    kind = p["type"].replace("|", "\\|")
    return f"| `{p['name']}` | {kind} | {'required' if p['required'] else p['default']} | {p['description']} |"


def _link(found: tuple[Path, int, str]) -> str:
    path, line, _ = found
    return f"[{path.name}:{line}]({to_uri(path)}#L{line})"


@lru_cache(maxsize=256)
def _documented(kind: Any, name: str) -> tuple[Path, int, str] | None:
    """The file and line of the class that a built-in name registers, and its documentation; nothing is imported."""
    module = builtin(kind).get(name)
    found = find_spec(module) if module is not None else None
    if found is None or found.origin is None:
        return None
    path = Path(found.origin)
    for node in ast.parse(path.read_text("utf-8")).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        for decorator in node.decorator_list:
            arguments = decorator.args if isinstance(decorator, ast.Call) else []
            if any(isinstance(a, ast.Constant) and a.value == name for a in arguments):
                return path, node.lineno, ast.get_docstring(node) or ""
    return None
