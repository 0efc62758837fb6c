"""Goes on after mistakes in a document: values that are not valid are left out, so that the rest can be checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphmodel.diagnostics import Diagnostic
from graphmodel.spec.document import KeyPath, dotted

LOST = "<not valid>"
"""Stands for a trunk, a head or a source that could not be read; what depends on it is not checked."""

MAX_ROUNDS = 20
"""The most times that a document is validated: one value that is left out may leave another without a key it needs."""


def changed(data: Any, changes: Mapping[KeyPath, str | None]) -> Any:
    """A copy of a mapping without some values, and with some keys of another name; None if it is to go itself.

    An item of a list cannot go alone, since those after it would move: the list goes.

    Args:
        data: the mapping.
        changes: for a path, the name that the key at its end gets, or None if its value goes.
    """
    if () in changes:
        return None
    tree: dict[Any, Any] = {}
    for path, name in changes.items():
        node: Any = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):  # what holds it changes already
                break
        else:
            node[path[-1]] = name
    return _rewritten(data, tree, ())


_GONE = object()


def _rewritten(value: Any, tree: Mapping[Any, Any], path: KeyPath) -> Any:
    """The value with the changes of a tree, whose leaves are as `changed` takes them; `_GONE` if it goes as a whole."""
    is_list = isinstance(value, list)
    if not is_list and not isinstance(value, Mapping):
        return _GONE
    found: list[tuple[Any, Any]] = []
    for key, item in enumerate(value) if is_list else value.items():
        change = tree.get(key, key)
        if change is None or isinstance(change, dict):
            new = _GONE if change is None else _rewritten(item, change, (*path, key))
            found.append((key, _stub((*path, key), item) if new is _GONE else new))
        else:
            found.append((change, item))
    if is_list:
        items = [item for _, item in found]
        return _GONE if any(item is _GONE for item in items) else items
    return {key: item for key, item in found if item is not _GONE}


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
