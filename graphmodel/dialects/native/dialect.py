"""The native dialect: the document is native already, and only gets the input shapes of the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graphmodel.diagnostics import Collector, choices_help
from graphmodel.dialects import InputShapes
from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.merge import merge


def views_of(shapes: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Shapes as `views` entries, one per run of equal shapes."""
    views: list[dict[str, Any]] = []
    for shape in shapes:
        if views and views[-1]["shape"] == list(shape):
            views[-1]["count"] += 1
        else:
            views.append({"count": 1, "shape": list(shape)})
    return views


def is_list_of_shapes(shape: Any) -> bool:
    """Whether these are the shapes of a list input: `[(3, 224, 224), (3, 96, 96)]`."""
    return isinstance(shape, (list, tuple)) and bool(shape) and isinstance(shape[0], (list, tuple))


def mapped_inputs(mapping: Any) -> list[str]:
    """The inputs that a `mapping` names, in either form; it is validated later."""
    if isinstance(mapping, dict):
        read = {str(head) for features in mapping.values() for head in _texts(features)}
        return [name for name in mapping if name not in read] or list(mapping)
    names: list[str] = []
    outputs: set[str] = set()
    for entry in mapping if isinstance(mapping, list) else ():
        if not isinstance(entry, dict):
            continue
        outputs |= {str(entry[key]) for key in ("as", "head") if entry.get(key)}
        origins = entry.get("from")
        for origin in origins if isinstance(origins, list) else [origins]:
            text = origin.get("from") if isinstance(origin, dict) else origin
            names += [str(text).partition(".")[0]] if text else []
    return [name for name in names if name not in outputs] or names


def _texts(value: Any) -> Iterator[str]:
    """Every text in a part of a mapping: names of heads and outputs among them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


class NativeDialect:
    """Any mapping that no other dialect claims."""

    name = "native"
    any_layout = False
    named_sections = ("inputs", "trunks", "heads")

    def recognises(self, document: Document) -> bool:
        return True

    def override_prefixes(self, document: Document) -> Sequence[KeyPath]:
        return ((),)

    def to_native(self, document: Document, inputs: InputShapes, report: Collector) -> Document:
        if not inputs:
            return document
        document = merge([document])
        declared = document.data.get("inputs")
        if not isinstance(declared, dict):
            declared = document.data["inputs"] = {name: {} for name in mapped_inputs(document.data.get("mapping"))}
        known = list(declared)
        for name, shape in inputs.items():
            if known and name not in known:
                report.error(
                    "GM207",
                    f"a shape was given for `{name}`, which is not an input of this model",
                    None,
                    choices_help(name, known, "inputs"),
                )
                continue
            old = declared.get(name)
            item = dict(old) if isinstance(old, dict) else {}
            item.pop("shape", None)
            item.pop("views", None)
            if is_list_of_shapes(shape):
                item["views"] = views_of(shape)  # type: ignore[arg-type]
            else:
                item["shape"] = list(shape)
            declared[name] = item
        return document


DIALECT = NativeDialect()
