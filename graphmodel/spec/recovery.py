"""Goes on after mistakes in a document: values that are not valid are left out, so that the rest can be checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from graphmodel.diagnostics import Diagnostic
from graphmodel.spec.document import KeyPath, dotted

LOST = "<not valid>"
"""Stands for a trunk, a head or a source that could not be read; what depends on it is not checked."""

MAX_ROUNDS = 20
"""The most times that a document is validated: one value that is left out may leave another without a key it needs."""


def offending(error: ValidationError, real: Any) -> list[KeyPath]:
    """The paths of the values to leave out for an error of Pydantic's.

    Args:
        error: what Pydantic raised.
        real: from a location of Pydantic's to the path of the value.
    """
    found: dict[KeyPath, None] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path: KeyPath = real(tuple(item["loc"]))
        found[path[:-1] if item["type"] == "missing" else path] = None
    return list(found)


def without(data: Any, paths: Iterable[KeyPath]) -> Any:
    """A copy of a mapping without the values at these paths, or None if a path is the mapping itself.

    An item of a list cannot go alone, since those after it would move: the list goes.
    """
    if any(not path for path in paths):
        return None
    tree: dict[Any, Any] = {}
    for path in paths:
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if node is None:
                break
        else:
            node[path[-1]] = None
    return _pruned(data, tree, ())


def respelled(data: Any, path: KeyPath, key: str) -> Any:
    """A copy of nested data in which the key at the end of a path has another name."""
    first, *rest = path
    if not rest:
        return {key if name == first else name: value for name, value in data.items()}
    if isinstance(data, list):
        return [respelled(item, tuple(rest), key) if i == first else item for i, item in enumerate(data)]
    return {name: respelled(value, tuple(rest), key) if name == first else value for name, value in data.items()}


_GONE = object()


def _pruned(value: Any, tree: Mapping[Any, Any], path: KeyPath) -> Any:
    """The value without what the tree marks with None, or `_GONE` if it cannot do without."""
    if isinstance(value, list):
        items = list(value)
        for i, below in tree.items():
            new = _GONE
            if isinstance(i, int) and i < len(items) and below is not None:
                new = _pruned(items[i], below, (*path, i))
            if new is _GONE:
                new = _stub((*path, i), items[i] if isinstance(i, int) and i < len(items) else None)
            if new is _GONE:
                return _GONE
            items[i] = new
        return items
    if not isinstance(value, Mapping):
        return _GONE
    out = dict(value)
    for key, below in tree.items():
        if key not in out:
            continue
        new = _GONE if below is None else _pruned(out[key], below, (*path, key))
        if new is _GONE:
            new = _stub((*path, key), out[key])
        if new is _GONE:
            del out[key]
        else:
            out[key] = new
    return out


def _stub(path: KeyPath, value: Any) -> Any:
    """What stands for a named part of a native spec, so that others may still name it; `_GONE` for anything else."""
    match path:
        case ("trunk",) | ("trunks", _) | ("heads", _) if value != LOST:
            return LOST
        case ("trunks",) if not isinstance(value, Mapping):
            return {"trunk": LOST}
        case ("inputs", _) if value is not None:
            return None
        case ("mapping", int()) if not isinstance(value, Mapping) or value.get("from") != LOST:
            kept = value if isinstance(value, Mapping) else {}
            names = {key: kept[key] for key in ("head", "as") if isinstance(kept.get(key), str)}
            return {"from": LOST, **names}
    return _GONE


class Findings:
    """Which parts of a spec have findings.

    Args:
        findings: the errors.
    """

    def __init__(self, findings: Sequence[Diagnostic]) -> None:
        self.paths = {finding.path for finding in findings if finding.path}
        self.above = {above for path in self.paths for above in _with_parents(path)}

    def concern(self, at: KeyPath) -> bool:
        """Whether a finding is at this path, inside of what is there, or about all of what it belongs to."""
        text = dotted(at)
        return bool(text) and (text in self.above or any(above in self.paths for above in _with_parents(text)))


def _with_parents(path: str) -> list[str]:
    """`heads.a[0].mlp` with `heads.a[0]`, `heads.a` and `heads`."""
    return [path, *(path[: m.start()] for m in re.finditer(r"[.\[]", path))]
