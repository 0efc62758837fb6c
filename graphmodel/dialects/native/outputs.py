"""The outputs of a native spec: unique names for all of them, and those that `outputs:` keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import Edge, Source
from graphmodel.spec.recovery import LOST


def is_lost(edge: Edge) -> bool:
    """Whether a source of the edge could not be read, which is reported."""
    return any(s.input == LOST for s in edge.sources)


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
    several = len({s.input for e in edges for s in e.sources if s.trunk is not None}) > 1
    by_head = Counter(e.head for e in edges)
    origins = [(s.input or s.output).replace(".", "_") for s in (e.sources[0] for e in edges)]
    by_origin = Counter((e.head, origin) for e, origin in zip(edges, origins, strict=True))
    names = []
    for edge, origin in zip(edges, origins, strict=True):
        source = edge.sources[0]
        feature = (source.feature or "features").replace(".", "_")
        if edge.output:
            names.append(edge.output)
        elif edge.head is None:
            is_feature = source.trunk is not None
            names.append(origin if not is_feature else f"{origin}_{feature}" if several else feature)
        elif by_head[edge.head] == 1:
            names.append(edge.head)
        elif by_origin[edge.head, origin] == 1:
            names.append(f"{edge.head}_{origin}")
        else:
            names.append(f"{edge.head}_{origin}_{feature}")
    return names


def link_outputs(edges: Sequence[Edge], inputs: Collection[str], report: LocatedReport) -> list[Edge]:
    """The edges in an order in which each comes after the outputs that it reads, by their final names.

    A source names another output by its `as`, or by its head if that gives one output.

    Args:
        edges: the mapping, every output named.
        inputs: names of the inputs; an output that is read cannot have one of these.
        report: where ambiguous names and cycles are reported.
    """
    by_name = {e.output: e for e in edges}
    by_head: dict[str, list[str]] = {}
    for edge in edges:
        by_head.setdefault(edge.head or "", []).append(edge.output)

    lost = [e for e in edges if is_lost(e)]

    def final(source: Source) -> Source:
        name, dot, part = source.output.partition(".")
        if not name:
            return source
        found = [name] if name in by_name else by_head.get(name, [])
        if not found and lost:
            return source.model_copy(update={"input": LOST, "output": ""})
        if len(found) != 1:
            which = ", ".join(f"`{n}`" for n in found)
            message = f"the head `{name}` gives several outputs: {which}" if found else f"unknown output `{name}`"
            help = f"read one of them by its name: `from: {found[0]}`" if found else "name the one to read with `as`"
            report.error("GM209", message, source.at, help, key=True)
            return source
        if found[0] in inputs:
            message = f"another head reads the output `{found[0]}`, which has the name of an input"
            report.error("GM209", message, source.at, "rename the output with `as`", key=True)
        return source.model_copy(update={"output": f"{found[0]}{dot}{part}"})

    linked = {
        e.output: e.model_copy(update={"sources": tuple(map(final, e.sources))})
        if any(s.output for s in e.sources)
        else e
        for e in edges
    }
    return _in_order(linked, report)


def _in_order(edges: Mapping[str, Edge], report: LocatedReport) -> list[Edge]:
    """The edges with each after those that it reads, otherwise in their own order; cycles are reported."""
    done: dict[str, Edge] = {}
    for start in edges:
        path = [start]
        while path:
            edge = edges[path[-1]]
            read = (s.output.partition(".")[0] for s in edge.sources)
            waiting = next((name for name in read if name in edges and name not in done), None)
            if waiting is None:
                done.setdefault(edge.output, edge)
                path.pop()
            elif waiting in path:
                cycle = [*path[path.index(waiting) :], waiting]
                shown = " -> ".join(f"`{name}`" for name in reversed(cycle))
                help = "an output cannot read one that depends on it"
                report.error("GM307", f"outputs read each other in a cycle: {shown}", edge.at, help)
                return list(edges.values())
            else:
                path.append(waiting)
    return list(done.values())


def _with_sources(names: set[str], edges: Mapping[str, Edge]) -> set[str]:
    """These outputs and those that they read, directly or not."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in edges and name not in found:
            found.add(name)
            todo += [s.output.partition(".")[0] for s in edges[name].sources if s.output]
    return found


def select_outputs(
    edges: Sequence[Edge], names: Sequence[str], wanted: Sequence[Any] | None, report: LocatedReport
) -> tuple[list[Edge], tuple[Any, ...]]:
    """The edges that `outputs` needs, in the order of execution, and the outputs in their own order.

    Args:
        edges: the mapping, every output named and after those that it reads.
        names: the outputs in the order of the mapping.
        wanted: names of outputs and lists of them; None keeps all.
        report: where unknown and duplicate names are reported.
    """
    by_name = {e.output: e for e in edges}
    if wanted is None:
        return list(edges), tuple(names)
    lost = [e.head or "" for e in edges if is_lost(e)]
    whole: set[str] = set()
    parts: dict[str, set[str]] = {}

    def pick(item: Any, path: KeyPath) -> Any:
        if isinstance(item, list):
            return tuple(pick(child, (*path, i)) for i, child in enumerate(item))
        # `swav.prototypes0` is one tensor of a head with several, which are known only when the head is built.
        edge = by_name.get(item) or by_name.get(item.partition(".")[0])
        if edge is None and any(item.startswith(name) for name in lost):
            pass  # its name may come from what could not be read
        elif edge is None or (item != edge.output and edge.head is None):
            report.error(
                "GM209",
                f"unknown output `{item}`",
                path,
                report.choices(item, [n for n in by_name if LOST not in n], "outputs"),
            )
        elif edge.output in whole or item in parts.get(edge.output, ()) or (item == edge.output and item in parts):
            report.error("GM209", f"the output `{item}` is listed twice", path)
        elif item == edge.output:
            whole.add(item)
        else:
            parts.setdefault(edge.output, set()).add(item)
        return item

    nested = tuple(pick(item, ("outputs", i)) for i, item in enumerate(wanted))
    kept = []
    needed = _with_sources(whole | parts.keys(), by_name)
    for edge in edges:
        if edge.output in needed:
            kept.append(edge)
        else:
            report.note("GM210", f"the output `{edge.output}` is not in `outputs` and is left out")
    return kept, nested
