"""Copies of trunks and heads in a native spec: which original each has, and what it overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from graphmodel.dialects.native.format import TrunkYaml
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.spec.model import HeadSpec, TrunkSpec

_UNKNOWN = {"trunk": "GM205", "head": "GM206"}


def find_originals(
    kind: Literal["trunk", "head"], names: Sequence[str], links: Mapping[str, str], report: LocatedReport
) -> dict[str, list[str]]:
    """For each copy the names from itself to its original; a copy of a copy has the original of that one.

    Args:
        kind: what is copied.
        names: all trunks, or all heads, of the spec.
        links: what each copy names.
        report: where unknown names and cycles go; the copies that lead to them are left out.
    """
    found: dict[str, list[str]] = {}
    reported: set[str] = set()
    for name in links:
        chain = [name]
        while chain[-1] in links and chain[-1] not in chain[:-1]:
            chain.append(links[chain[-1]])
        last = chain[-1]
        if last not in names:
            if len(chain) == 2:  # longer ones lead to a copy for which it is said
                others = [n for n in names if n != name]
                at = (f"{kind}s", name, "copy")
                report.error(_UNKNOWN[kind], f"unknown {kind} `{last}`", at, report.choices(last, others, f"{kind}s"))
        elif last in chain[:-1]:
            cycle = chain[chain.index(last) :]
            if not reported & set(cycle):
                message = f"the copies of {kind}s go in a cycle: {' -> '.join(f'`{n}`' for n in cycle)}"
                help = f"give one of them a {'family (`name`)' if kind == 'trunk' else 'module'} of its own"
                report.error("GM214", message, (f"{kind}s", cycle[0], "copy"), help)
            reported |= set(cycle)
        else:
            found[name] = chain
    return found


def copied_trunk(original: TrunkSpec, name: str, overrides: Sequence[TrunkYaml]) -> TrunkSpec:
    """The spec of a copy.

    Args:
        original: what it is a copy of.
        name: its name.
        overrides: what copies of the original say, the copy itself last.
    """
    params, memory_format = dict(original.params), original.memory_format
    for written in overrides:
        params |= written.model_extra or {}
        memory_format = written.memory_format if "memory_format" in written.model_fields_set else memory_format
    own = overrides[-1]
    update = {
        "name": name,
        "copy_of": original.name,
        "params": params,
        "memory_format": memory_format,
        "batchnorm": own.batchnorm or "eval",
        "freeze": own.freeze if "freeze" in own.model_fields_set else True,
        "at": ("trunks", name),
    }
    return original.model_copy(update=update)


def with_originals(names: set[str], known: Mapping[str, TrunkSpec] | Mapping[str, HeadSpec]) -> set[str]:
    """These trunks or heads and the originals of those that are copies."""
    return names | {known[n].copy_of for n in names if n in known and known[n].copy_of}
