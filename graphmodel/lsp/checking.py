"""The first check of a spec, without torch: its syntax, its structure, and the names in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from graphmodel.components.index import unknown_head_text
from graphmodel.components.library.model_names import unknown_trunk_help
from graphmodel.diagnostics import CompileError, Diagnostic, in_source_order
from graphmodel.dialects.loading import read_spec
from graphmodel.lsp.catalogue import Catalogue
from graphmodel.lsp.settings import Checked, Settings
from graphmodel.spec.document import KeyPath, dotted
from graphmodel.spec.model import ModelSpec, ModuleCall, TrunkSpec
from graphmodel.spec.recovery import LOST
from graphmodel.spec.validate import unknown_key


def check(paths: Sequence[Path], texts: Mapping[Path, str], settings: Settings, catalogue: Catalogue | None) -> Checked:
    """Reads a spec and checks its structure and its names.

    Args:
        paths: its file, or a base and overlays in order.
        texts: contents of open documents, which take precedence over the disk.
        settings: how it is read.
        catalogue: the components that it may name; None if they are not known yet.
    """
    names = [str(path) for path in paths]
    try:
        spec = read_spec(
            names,
            settings.overrides,
            inputs={name: tuple(shape) for name, shape in settings.inputs.items()} or None,
            allow_extends_outside=settings.allow_extends_outside,
            texts=texts,
        )
    except CompileError as error:
        files = [d.span.file for d in error.diagnostics if d.span is not None]
        return Checked(None, tuple(error.diagnostics), tuple(dict.fromkeys([*names, *files])))
    found = [*spec.errors.found, *spec.notes]
    if catalogue is not None:
        found += _names(spec, catalogue)
    return Checked(spec, tuple(in_source_order(found)), spec.origin.files or tuple(names))


def _names(spec: ModelSpec, catalogue: Catalogue) -> list[Diagnostic]:
    """The trunks, modules of heads, and parameters that do not exist, as the build reports them."""
    found: list[Diagnostic] = []
    for trunk in spec.trunks.values():
        if not trunk.imports and trunk.family != LOST and not trunk.copy_of:
            found += _trunk(trunk, spec, catalogue)
    for head in spec.heads.values():
        for call in head.chain if not head.copy_of else ():
            if call.name != LOST and ":" not in call.name:
                found += _module(call, spec, catalogue)
    return found


def _trunk(trunk: TrunkSpec, spec: ModelSpec, catalogue: Catalogue) -> list[Diagnostic]:
    if not catalogue.is_trunk(trunk.family):
        span = spec.span((*trunk.at, "name")) or spec.span(trunk.at)
        help = unknown_trunk_help(trunk.family, lambda: list(catalogue.trunks), catalogue.models.get)
        return [Diagnostic("GM205", f"unknown trunk `{trunk.family}`", span, help, path=dotted(trunk.at))]
    keys = catalogue.trunk_parameters.get(trunk.family)
    return [] if keys is None else _unknown_keys(trunk.params, keys, trunk.at, spec)


def _module(call: ModuleCall, spec: ModelSpec, catalogue: Catalogue) -> list[Diagnostic]:
    row = catalogue.heads.get(call.name)
    if row is None:
        message, help = unknown_head_text(call.name, sorted(catalogue.heads))
        return [Diagnostic("GM206", message, spec.span(call.at, key=True), help, path=dotted(call.at))]
    return _unknown_keys(call.params, [p["name"] for p in row["parameters"]], call.at, spec)


def _unknown_keys(params: Mapping[str, object], keys: Sequence[str], at: KeyPath, spec: ModelSpec) -> list[Diagnostic]:
    return [unknown_key((*at, name), keys, spec.document) for name in params if name not in keys]
