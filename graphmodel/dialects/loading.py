"""`load_spec`: reads and merges files or a mapping, finds the dialect, resolves to a `ModelSpec`; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphmodel.diagnostics import Collector, fail
from graphmodel.dialects import InputShapes, dialect_of
from graphmodel.spec.document import Document
from graphmodel.spec.extends import FileReader
from graphmodel.spec.merge import apply_overrides, from_mapping, merge

if TYPE_CHECKING:
    from graphmodel.spec.model import ModelSpec


NATIVE_KEYS = ("graphmodel", "trunk", "trunks", "heads", "mapping", "inputs", "outputs")
"""Keys that only the native format has."""


def read(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any],
    report: Collector,
    *,
    allow_extends_outside: bool = False,
    texts: Mapping[Path, str] | None = None,
) -> Document:
    """One document from a path, several paths (base first, overlays after), or a mapping.

    Duplicate keys, and warnings about missing files of a Hydra defaults list, go into `report`. `texts` are contents
    that take precedence over those on the disk, by resolved path.
    """
    if isinstance(source, Mapping):
        return from_mapping(source)
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    if not paths:
        raise fail("GM100", "no spec given")
    for path in paths:
        _refuse_text(path)
    reader = FileReader(report, allow_outside=allow_extends_outside, texts=texts)
    documents = [_followed(reader.read(path), path, report, reader) for path in paths]
    documents[0].base = str(paths[0])
    return documents[0] if len(documents) == 1 else merge(documents)


def _refuse_text(path: str | Path) -> None:
    """Refuses the text of a spec where a path is expected; paths contain no newline and no `key: value`."""
    if isinstance(path, str) and ("\n" in path or re.match(r"\s*(?:\{|\w+:(?:\s|$))", path)):
        raise fail(
            "GM100",
            "expected a path or a mapping, and got the text of a spec",
            help="write the text to a file, or pass `yaml.safe_load(text)`",
        )


def _refuse_two_formats(document: Document) -> None:
    """Refuses a file with the keys of two formats: those of one would be ignored."""
    native = [key for key in NATIVE_KEYS if key in document.data]
    config = document.data.get("config")
    theirs = "MODEL" if "MODEL" in document.data else "config.MODEL"
    if native and ("MODEL" in document.data or (isinstance(config, Mapping) and "MODEL" in config)):
        written = ", ".join(f"`{key}`" for key in native)
        message = f"the file has VISSL's `{theirs}` and keys of the native format: {written}"
        help = "keep one of them; `graphmodel convert` writes a VISSL file in the native format"
        raise fail("GM110", message, document.span((native[0],), key=True), help, native[0])


def _followed(document: Document, path: str | Path, report: Collector, reader: FileReader) -> Document:
    if "defaults" not in document.data:
        return document
    from graphmodel.spec.hydra import follow_defaults

    return follow_defaults(document, Path(path), report, reader)


def load_spec(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    overrides: Sequence[str] = (),
    *,
    inputs: InputShapes | None = None,
    allow_extends_outside: bool = False,
) -> ModelSpec:
    """Loads and resolves a spec; builds nothing and imports no torch.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> graphmodel.load_spec(spec, overrides=["trunk.depth=34"]).trunks["trunk"].params
        {'depth': 34}

    Args:
        source: a path, several paths (a base and overlays in order), a mapping already loaded, or a `ModelSpec`.
        overrides: `path=value` items, such as `trunk.depth=101`.
        inputs: per-sample shapes by input name, taking precedence over the file's; a list of shapes makes a list input.
        allow_extends_outside: whether `extends` may name files outside the directory tree of the spec.

    Returns:
        The resolved spec.

    Raises:
        CompileError: everything that is wrong with the YAML, its structure and its names, at once.
    """
    spec = read_spec(source, overrides, inputs=inputs, allow_extends_outside=allow_extends_outside)
    spec.errors.raise_errors()
    return spec


def read_spec(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    overrides: Sequence[str] = (),
    *,
    inputs: InputShapes | None = None,
    allow_extends_outside: bool = False,
    texts: Mapping[Path, str] | None = None,
) -> ModelSpec:
    """`load_spec` for a caller that builds: mistakes are kept in `spec.errors`, and the build raises them with its own.

    `texts` are contents of files that take precedence over those on the disk, by resolved path, as in an editor.

    Raises:
        CompileError: if so much is wrong that nothing else can be checked.
    """
    report = Collector()
    if not isinstance(source, (str, Path, Mapping, Sequence)):
        from graphmodel.spec.model import ModelSpec

        if not isinstance(source, ModelSpec):
            message = f"a spec is a path, several paths, a mapping or a `ModelSpec`, not {type(source).__name__}"
            raise fail("GM105", message, help='for example `graphmodel.compile("spec.yaml")`')
        if not overrides and not inputs:
            return source
        document = source.origin
    else:
        document = read(source, report, allow_extends_outside=allow_extends_outside, texts=texts)
    dialect = dialect_of(document)
    _refuse_two_formats(document)
    if overrides:
        document = apply_overrides(document, overrides, dialect.override_prefixes(document), dialect.named_sections)
    # Importing a module of Pydantic models builds them: each is imported only after the step before it succeeded.
    known = len(report.errors)
    native = dialect.to_native(document, dict(inputs or {}), report)
    is_only_named = dialect.name != "native" and len(report.errors) > known
    from graphmodel.dialects.native.format import NativeSpec
    from graphmodel.spec.validate import validate

    contents = validate(NativeSpec, native, report)
    from graphmodel.dialects.native.resolve import resolve

    spec = resolve(native, contents, report, dialect)
    spec._origin = document
    spec._is_only_named = is_only_named
    return spec
