"""The outputs of a native spec: unique names for all of them, and those that `outputs:` keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import Edge


def name_outputs(edges: Sequence[Edge], report: LocatedReport) -> list[Edge]:
    """Output names: `as`, or the head's (or feature's) name, made unique by input and feature.

    Args:
        edges: the mapping, with empty names where the spec sets none.
        report: where invalid and duplicate names are reported.
    """
    given = {e.output for e in edges if e.output}
    taken: set[str] = set()
    used: Counter[str] = Counter()
    out = []
    for edge, name in zip(edges, _default_names(edges), strict=True):
        unique = name
        if edge.output:
            report.check_name(name, "an output", edge.at)
            if name in taken:
                report.error("GM209", f"two outputs are named `{name}`", edge.at, "rename one of them with `as`")
        else:
            while unique in taken or unique in given or (used[name] and unique == name):
                used[name] += 1
                unique = f"{name}_{used[name]}"
            used[name] = max(used[name], 1)
        taken.add(unique)
        out.append(edge.model_copy(update={"output": unique}))
    return out


def _default_names(edges: Sequence[Edge]) -> list[str]:
    several = len({s.input for e in edges for s in e.sources}) > 1
    by_head = Counter(e.head for e in edges)
    by_input = Counter((e.head, e.sources[0].input) for e in edges)
    names = []
    for edge in edges:
        source = edge.sources[0]
        feature = (source.feature or "features").replace(".", "_")
        if edge.output:
            names.append(edge.output)
        elif edge.head is None:
            names.append(f"{source.input}_{feature}" if several else feature)
        elif by_head[edge.head] == 1:
            names.append(edge.head)
        elif by_input[edge.head, source.input] == 1:
            names.append(f"{edge.head}_{source.input}")
        else:
            names.append(f"{edge.head}_{source.input}_{feature}")
    return names


def select_outputs(
    edges: Sequence[Edge], wanted: Sequence[Any] | None, report: LocatedReport
) -> tuple[list[Edge], tuple[Any, ...]]:
    """The edges that `outputs` keeps, in the order of the mapping, and the outputs in their own order.

    Args:
        edges: the mapping, every output named.
        wanted: names of outputs and lists of them; None keeps all.
        report: where unknown and duplicate names are reported.
    """
    by_name = {e.output: e for e in edges}
    if wanted is None:
        return list(edges), tuple(by_name)
    whole: set[str] = set()
    parts: dict[str, set[str]] = {}

    def pick(item: Any, path: KeyPath) -> Any:
        if isinstance(item, list):
            return tuple(pick(child, (*path, i)) for i, child in enumerate(item))
        # `swav.prototypes0` is one tensor of a head with several, which are known only when the head is built.
        edge = by_name.get(item) or by_name.get(item.partition(".")[0])
        if edge is None or (item != edge.output and edge.head is None):
            report.error("GM209", f"unknown output `{item}`", path, report.choices(item, list(by_name), "outputs"))
        elif edge.output in whole or item in parts.get(edge.output, ()) or (item == edge.output and item in parts):
            report.error("GM209", f"the output `{item}` is listed twice", path)
        elif item == edge.output:
            whole.add(item)
        else:
            parts.setdefault(edge.output, set()).add(item)
        return item

    nested = tuple(pick(item, ("outputs", i)) for i, item in enumerate(wanted))
    kept = []
    for edge in edges:
        if edge.output in whole or edge.output in parts:
            kept.append(edge)
        else:
            report.note("GM210", f"the output `{edge.output}` is not in `outputs` and is left out")
    return kept, nested
