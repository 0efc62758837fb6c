"""Heads of a native spec as chains of modules, and the settings that they train with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.dialects.native.head_format import HeadSettingsYaml
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import HeadSpec, ModuleCall


def resolve_chain(value: Any, path: KeyPath) -> tuple[ModuleCall, ...]:
    """The modules of a head that is a name, a name and its parameters, or a list of these."""
    items = [((*path, i), item) for i, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
    chain = []
    for at, item in items:
        call, params = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        chain.append(ModuleCall(name=call, params=params or {}, at=at if isinstance(item, str) else (*at, call)))
    return tuple(chain)


def with_settings(
    heads: Mapping[str, HeadSpec], written: Mapping[str, HeadSettingsYaml], known: list[str], report: LocatedReport
) -> dict[str, HeadSpec]:
    """The heads with what `head_settings` says of them.

    Args:
        heads: the heads, those of grids with the settings of their grid.
        written: what the spec says.
        known: the names of all heads, those with mistakes included.
        report: where unknown heads go.
    """
    found = dict(heads)
    for name, settings in written.items():
        if name in found:
            update = settings.model_dump(exclude_unset=True)
            head = found[name]
            found[name] = head.model_copy(update={"settings": head.settings.model_copy(update=update)})
        elif name not in known:
            path: KeyPath = ("head_settings", name)
            report.error("GM206", f"unknown head `{name}`", path, report.choices(name, known, "heads"), key=True)
    return found
