"""How an editor's specs are read, and what a check of one finds; plain data, imported before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphmodel.diagnostics import Diagnostic
from graphmodel.lsp.documents import resolved

if TYPE_CHECKING:
    from graphmodel.spec.model import ModelSpec


@dataclass(frozen=True)
class Settings:
    """How specs are read; what the options of `graphmodel check` say on the command line.

    Attributes:
        specs: groups of files that are one spec: a base and its overlays, in order.
        overrides: `path=value` items.
        inputs: per-sample shapes by input.
        allow_extends_outside: whether `extends` may name files outside the directory tree of the spec.
        shapes: whether shapes are checked, which takes a process with torch.
    """

    specs: tuple[tuple[Path, ...], ...] = ()
    overrides: tuple[str, ...] = ()
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    allow_extends_outside: bool = False
    shapes: bool = True


@dataclass(frozen=True)
class Checked:
    """A checked spec.

    Attributes:
        spec: the spec as far as it can be resolved; None if it cannot be read at all.
        findings: what is wrong with it.
        files: the files that it was read from.
    """

    spec: ModelSpec | None
    findings: tuple[Diagnostic, ...]
    files: tuple[str, ...]


def settings_of(options: Any, folders: Sequence[Path]) -> Settings:
    """The settings of an editor; what is not of the right type is left out.

    Args:
        options: `specs` (lists of files), `set`, `inputs`, `allowExtendsOutside` and `shapes`.
        folders: those of the workspace; paths are relative to each of them.
    """
    options = options if isinstance(options, dict) else {}
    groups: Sequence[Any] = options.get("specs") or ()
    specs = [
        tuple(resolved(folder / name) for name in group)
        for folder in folders
        for group in (groups if isinstance(groups, list) else ())
        if isinstance(group, list) and group and all(isinstance(name, str) for name in group)
    ]
    overrides, inputs = options.get("set") or (), options.get("inputs") or {}
    return Settings(
        specs=tuple(dict.fromkeys(specs)),  # absolute paths are the same in each folder
        overrides=tuple(o for o in overrides if isinstance(o, str)) if isinstance(overrides, list) else (),
        inputs={
            name: tuple(shape)
            for name, shape in (inputs.items() if isinstance(inputs, dict) else ())
            if isinstance(shape, list) and shape and all(isinstance(n, int) and n > 0 for n in shape)
        },
        allow_extends_outside=options.get("allowExtendsOutside") is True,
        shapes=options.get("shapes") is not False,
    )
