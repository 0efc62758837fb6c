"""Writes a spec of another dialect in the native format, each line with a comment that says where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphmodel.dialects.native.dump import header, to_yaml
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import ModelSpec

DEEPEST = {
    "trunk": 2,
    "inputs": 2,
    "heads": 2,
    "grid": 2,
    "head_settings": 2,
    "mapping": 2,
    "freeze": 2,
    "head_defaults": 2,
    "weights": 2,
}
"""How deep comments go under a top-level key: deeper values come from the same lines."""


CHANNELS_FIRST = ("resnet", "regnet", "efficientnet", "mobilenet", "alexnet", "convnext")
"""How the names of families begin whose maps all have channels first: there, the layout makes no difference."""


def convert(spec: ModelSpec, schema: str = "") -> str:
    """The native text of a spec.

    Args:
        spec: a spec of any dialect, as `load_spec` returned it.
        schema: a path or address for the `yaml-language-server` line; none if empty.

    Returns:
        YAML that `load_spec` reads into the same model. Comments name the file and line of each part; warnings and
        notes of the dialect are at the top.
    """
    data = dict(spec.document.data)
    files = [Path(f).name for f in spec.origin.files] or ["a mapping in memory"]
    ordered: dict[str, Any] = {"graphmodel": data.pop("graphmodel", 1)}
    ordered["name"] = data.pop("name", None) or _name(spec)
    ordered |= {k: v for k, v in data.items() if v not in ({}, [], None)}
    if spec.dialect != "native" and not all(t.family.startswith(CHANNELS_FIRST) for t in spec.trunks.values()):
        ordered["mapping"] = [_in_any_layout(entry) for entry in ordered["mapping"]]
    start = [f"yaml-language-server: $schema={schema}"] if schema else []
    start += [f"converted from {' + '.join(files)} ({spec.dialect})"]
    start += [f"{n.severity}: {n.message}" for n in spec.notes]

    def comment(path: KeyPath) -> str:
        if not path or len(path) > DEEPEST.get(str(path[0]), 1):
            return ""
        place = spec.document.places.get(path)
        if place is None:
            return ""
        span = place.key or place.value
        return f"{Path(span.file).name}:{span.line}"

    return header(start) + to_yaml(ordered, comment)


def _in_any_layout(entry: dict[str, Any]) -> dict[str, Any]:
    """A mapping entry that reads its features in any layout, as its dialect does by default."""
    written = entry["from"]
    if isinstance(written, str):
        return {**entry, "any_layout": True}
    if isinstance(written, dict):
        return {**entry, "from": {**written, "any_layout": True}}
    items = [{"from": item} if isinstance(item, str) else item for item in written]
    return {**entry, "from": [{**item, "any_layout": True} for item in items]}


def _name(spec: ModelSpec) -> str:
    stem = Path(spec.origin.base).stem
    return stem or spec.name
