"""The names that a spec defines, as far as its text can be read: inputs, trunks, heads, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphmodel.lsp.trunk_pages import TrunkPages
from graphmodel.spec.model import ModelSpec


@dataclass
class Scope:
    """Names and what is known of them.

    Attributes:
        inputs: the shapes of each input; none if they are not known.
        trunks: the family and the parameters of each trunk; no family if it is not known, as of imported code.
        heads: names of heads.
        outputs: names that sources may read.
        kept: names that the list of outputs may have.
    """

    inputs: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    trunks: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    heads: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, None] = field(default_factory=dict)
    kept: dict[str, None] = field(default_factory=dict)

    def features(self, pages: TrunkPages, input: str = "", trunk: str = "") -> list[dict[str, Any]]:
        """The features of a trunk at the size of an input, those of all trunks and inputs if none is named."""
        found: dict[str, dict[str, Any]] = {}
        for family, params in [t for n, t in self.trunks.items() if t[0] and (not trunk or n == trunk)]:
            sizes = [s for n, shapes in self.inputs.items() if not input or n == input for s in shapes]
            wanted: list[tuple[int, ...] | None] = [*sizes[:4]] or [None]
            for shape in wanted:
                page = pages.find(family, params, shape)
                for row in (page or {}).get("features", ()):
                    for name in (row["name"], *row["aliases"]):
                        found.setdefault(name, {**row, "name": name})
        return list(found.values())


def scope_of(data: Any, spec: ModelSpec | None) -> Scope:
    """The scope of a document in the native format, over that of the last spec that could be resolved.

    Args:
        data: the document as it is now; of another format, only `spec` counts.
        spec: the last resolved spec; it has what the document extends.
    """
    scope = Scope()
    if spec is not None:
        for item in spec.inputs.values():
            scope.inputs[item.name] = [s for s in dict.fromkeys(item.views or (item.shape,)) if s]
        scope.trunks = {t.name: ("" if t.imports else t.family, dict(t.params)) for t in spec.trunks.values()}
        scope.trunks |= {t.name: scope.trunks[t.copy_of] for t in spec.trunks.values() if t.copy_of in scope.trunks}
        scope.heads = dict.fromkeys(spec.heads)
        scope.outputs = dict.fromkeys(e.output for e in spec.edges)
        scope.kept = dict(scope.outputs)
        if spec.dialect != "native":
            return scope
    data = data if isinstance(data, dict) else {}
    extends = "extends" in data
    if not extends:
        scope = Scope(
            trunks=scope.trunks if "trunk" in data or "trunks" in data else {}, outputs=scope.outputs, kept=scope.kept
        )
    for name, value in _mapping(data.get("inputs")).items():
        scope.inputs[name] = _shapes(value)
    for name, value in [("trunk", data.get("trunk")), *_mapping(data.get("trunks")).items()]:
        family, params = _trunk(value)
        if family:
            scope.trunks[name] = family, params
        elif name not in scope.trunks and value is not None:
            scope.trunks[name] = "", {}
    scope.heads |= dict.fromkeys(_mapping(data.get("heads")))
    for name, value in _mapping(data.get("trunks")).items():
        copied = _mapping(value).get("copy")
        if isinstance(copied, str) and copied in scope.trunks:
            scope.trunks[name] = scope.trunks[copied]
    written = _outputs(data.get("mapping"))
    scope.outputs |= {name: None for names in written for name in names}
    scope.kept |= {names[0]: None for names in written}
    return scope


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, dict):
        views = value.get("views")
        found = (
            [v.get("shape") for v in views if isinstance(v, dict)] if isinstance(views, list) else [value.get("shape")]
        )
    else:
        found = [value]
    return [
        tuple(s) for s in found if isinstance(s, list) and s and all(isinstance(n, int) and 0 < n < 2**20 for n in s)
    ]


def _trunk(value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    own = {"name", "freeze", "batchnorm", "input_type", "memory_format", "pretrained", "copy", "module"}
    item = _mapping(value)
    name = item.get("name")
    return (name, {k: v for k, v in item.items() if k not in own}) if isinstance(name, str) else ("", {})


def _outputs(mapping: Any) -> list[list[str]]:
    """The names of the output of each entry in the long form; the first is that of the output itself."""
    entries = [e for e in mapping if isinstance(e, dict)] if isinstance(mapping, list) else []
    found = [[e[k] for k in ("as", "head") if isinstance(e.get(k), str)] for e in entries]
    return [names for names in found if names]
