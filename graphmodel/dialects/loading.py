"""From files or a mapping to a `ModelSpec`: reads, merges, tells the dialect, resolves. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphmodel.diagnostics import Collector, fail
from graphmodel.dialects import Dialect, InputShapes
from graphmodel.spec.document import Document
from graphmodel.spec.merge import apply_overrides, from_mapping, merge, read_extended

if TYPE_CHECKING:
    from graphmodel.spec.model import ModelSpec

BUILT_IN = ("graphmodel.dialects.vissl.dialect", "graphmodel.dialects.native.dialect")

SpecSource = "str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec"


def dialects() -> list[Dialect]:
    """The built-in dialects and those of installed packages (entry points `graphmodel.dialects`), native last."""
    from importlib import metadata

    found = [entry.load() for entry in metadata.entry_points(group="graphmodel.dialects")]
    return [*(cast(Dialect, d) for d in found), *map(_built_in, BUILT_IN)]


def _built_in(module: str) -> Dialect:
    return cast(Dialect, import_module(module).DIALECT)


def dialect_of(document: Document) -> Dialect:
    """The dialect that a document is written in."""
    # `graphmodel: 1` says it; installed packages are asked only where it is missing, since finding them takes time.
    native = _built_in(BUILT_IN[-1])
    if "graphmodel" in document.data:
        return native
    return next((d for d in dialects() if d.recognises(document)), native)


def read(source: str | Path | Sequence[str | Path] | Mapping[str, Any], report: Collector | None = None) -> Document:
    """One document from a path, several paths (base first, overlays after), or a mapping.

    Warnings about what a Hydra defaults list names in vain go into `report`.
    """
    if isinstance(source, Mapping):
        return from_mapping(source)
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    if not paths:
        raise fail("GM100", "no spec was given")
    report = report if report is not None else Collector()
    documents = [_followed(read_extended(path), path, report) for path in paths]
    return documents[0] if len(documents) == 1 else merge(documents)


def _followed(document: Document, path: str | Path, report: Collector) -> Document:
    if "defaults" not in document.data:
        return document
    from graphmodel.spec.hydra import follow_defaults

    return follow_defaults(document, Path(path), report)


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
    report = Collector()
    if not isinstance(source, (str, Path, Mapping, Sequence)):  # a ModelSpec
        if not overrides and not inputs:
            return source
        document = source.origin
    else:
        document = read(source, report)
    dialect = dialect_of(document)
    if overrides:
        document = apply_overrides(document, overrides, dialect.override_prefixes(document))
    # Pydantic builds its models while it is imported: nothing is imported before the step in front of it went well.
    native = dialect.to_native(document, dict(inputs or {}), report)
    from graphmodel.dialects.native.surface import read_surface

    surface = read_surface(native, report)
    from graphmodel.dialects.native.resolve import resolve

    spec = resolve(native, surface, report, dialect.name)
    spec._origin = document
    return spec
