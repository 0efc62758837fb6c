"""From files or a mapping to a `ModelSpec`: reads, merges, tells the dialect, resolves. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

from graphmodel.diagnostics import Collector
from graphmodel.dialects import Dialect, InputShapes
from graphmodel.dialects.resolve import resolve
from graphmodel.spec.document import Document, fail
from graphmodel.spec.merge import apply_overrides, from_mapping, merge, read_extended
from graphmodel.spec.model import ModelSpec

SpecSource = "str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec"


def dialects() -> list[Dialect]:
    """The built-in dialects and those of installed packages (entry points `graphmodel.dialects`), native last."""
    found = [entry.load() for entry in metadata.entry_points(group="graphmodel.dialects")]
    names = ("graphmodel.dialects.vissl", "graphmodel.dialects.native_dialect")
    return [*(cast(Dialect, d) for d in found), *(cast(Dialect, import_module(n).DIALECT) for n in names)]


def read(source: str | Path | Sequence[str | Path] | Mapping[str, Any]) -> Document:
    """One document from a path, several paths (base first, overlays after), or a mapping."""
    if isinstance(source, Mapping):
        return from_mapping(source)
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    if not paths:
        raise fail("GM100", "no spec was given")
    documents = [read_extended(path) for path in paths]
    return documents[0] if len(documents) == 1 else merge(documents)


def load_spec(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    overrides: Sequence[str] = (),
    *,
    inputs: InputShapes | None = None,
) -> ModelSpec:
    """Loads and resolves a spec; builds nothing and imports no torch.

    Args:
        source: a path, several paths (a base and overlays in order), a mapping already loaded, or a `ModelSpec`.
        overrides: `path=value` items, such as `trunk.depth=101`.
        inputs: per-sample shapes by input name, over what the file says; a list of shapes makes a list input.

    Returns:
        The resolved spec.

    Raises:
        CompileError: everything that is wrong with the YAML, its structure and its names, at once.
    """
    if isinstance(source, ModelSpec):
        if not overrides and not inputs:
            return source
        document = source.origin
    else:
        document = read(source)
    for dialect in dialects():
        if dialect.recognises(document):
            break
    if overrides:
        document = apply_overrides(document, overrides, dialect.override_prefixes(document))
    report = Collector()
    native = dialect.to_native(document, dict(inputs or {}), report)
    spec = resolve(native, report, dialect.name)
    spec._origin = document
    return spec
