"""Folds what repeats or says little: small calls into one cell, equal stages in a row, equal heads into a stack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable

from torch import nn

from graphmodel.graph.text import info_text
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.visualize.cells import Cell, Cells

GLUE = frozenset({"getitem", "size", "split", "cat", "getattr"})
"""Operations that only take values apart and put them together."""

QUIET = frozenset({"getitem", "size", "getattr", "contiguous", "expand"})
"""Operations that a box does not mention beside others."""


def is_small(graph: ModelGraph, node: Node) -> bool:
    """Whether a call of a trunk is a detail beside its stages: a function, a parameter, one layer of torch's own."""
    module = graph.module_of(node)
    if module is None:
        return True
    own = [c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules") and c is not nn.Module]
    return bool(own) and not list(module.children())


def fold_whole_trunks(cells: Cells) -> None:
    """Each trunk, or each pass through it, becomes one cell."""
    frames: dict[str, list[str]] = defaultdict(list)
    for cell in cells.cells.values():
        if cell.kind == "stage":
            frames[cell.frame].append(cell.id)
    for inside in frames.values():
        for other in inside[1:]:
            cells.fold(inside[0], other)
        cells.cells[inside[0]].frame = ""


def fold_details(cells: Cells) -> None:
    """Small calls of a trunk become one cell with the one that reads them; a feature always ends its cell."""
    graph = cells.graph

    def small(id: str) -> bool:
        cell = cells.cells[id]
        return cell.kind == "stage" and all(is_small(graph, n) for n in cells.nodes(cell))

    def joins(first: str, second: str) -> bool:
        one, other = cells.cells[first], cells.cells[second]
        together = one.frame == other.frame and one.ghost == other.ghost and len(cells.readers[first]) == 1
        return together and not ends(cells, first) and small(second)

    fold_along(cells, lambda a, b: small(a) and joins(a, b))


def fold_quiet(cells: Cells) -> None:
    """Calls of a trunk that only pick from a value, or ask for its size, join what they read, or else a reader.

    One that is a feature joins only what serves nothing else.
    """
    for id in list(cells.cells):
        cell = cells.cells.get(id)
        if cell is None or cell.kind != "stage" or any(operation_name(n) not in QUIET for n in cells.nodes(cell)):
            continue
        sources = [s for s in cells.sources[id] if not ends(cells, s) and len(cells.readers[s]) == 1]
        readers = [] if ends(cells, id) else sorted(cells.readers[id])
        pairs = [(s, id) for s in (sources if ends(cells, id) else cells.sources[id])] + [(id, r) for r in readers]
        for first, second in pairs:
            one, other = cells.cells[first], cells.cells[second]
            if one.frame == other.frame and one.ghost == other.ghost and cells.can_fold(first, second):
                cells.fold(first, second)
                break


def fold_operations(cells: Cells) -> None:
    """Operations between trunk and heads: those that only regroup become one, so do chains of single readers."""

    def glue(id: str) -> bool:
        return all(operation_name(n) in GLUE for n in cells.nodes(id))

    def joins(first: str, second: str) -> bool:
        if cells.cells[first].kind != "op" or cells.cells[second].kind != "op":
            return False
        chain = len(cells.readers[first]) == 1 and len(cells.sources[second]) == 1
        return chain or (glue(first) and glue(second))

    fold_along(cells, joins)


def operation_name(node: Node) -> str:
    """The bare name of a function or method; empty for other calls."""
    if node.call not in ("function", "method"):
        return ""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def fold_along(cells: Cells, joins: Callable[[str, str], bool]) -> None:
    """Folds every pair of neighbours that `joins` agrees to, until none is left."""
    changed = True
    while changed:
        changed = False
        for first in list(cells.cells):
            for second in sorted(cells.readers.get(first, ())):
                if joins(first, second) and cells.can_fold(first, second):
                    cells.fold(first, second)
                    changed = True
                    break


def ends(cells: Cells, id: str) -> bool:
    """Whether a feature leaves a cell."""
    return any(n.facts.features for n in cells.nodes(id))


def fold_repeats(cells: Cells) -> None:
    """Equal stages in a row become one cell; a stage with a feature is the last of its row."""
    for id in list(cells.cells):
        if id not in cells.cells or cells.cells[id].kind != "stage":
            continue
        key = stage_key(cells, id)
        while key is not None and not ends(cells, id) and len(cells.readers[id]) == 1:
            (after,) = cells.readers[id]
            if stage_key(cells, after) != key or not cells.can_fold(id, after):
                break
            cells.fold(id, after)
            cells.cells[id].repeats += 1


def stage_key(cells: Cells, id: str) -> Hashable | None:
    """What two stages must share to count as equal; None where a cell is no single stage."""
    cell = cells.cells[id]
    nodes = cells.nodes(cell)
    modules = [cells.graph.module_of(n) for n in nodes]
    if cell.kind != "stage" or not modules or any(m is None for m in modules):
        return None
    last = {n.scope: n for n in nodes}
    first = modules[0]
    assert first is not None
    return (
        cell.frame,
        type(first),
        tuple((name, tuple(p.shape)) for name, p in first.named_parameters()),
        tuple((scope, info_text(n.info)) for scope, n in last.items()),
        tuple(sorted(str((k, v)) for k, v in nodes[0].facts.stated().items() if k != "features")),
        cell.ghost,
    )


def stack_heads(cells: Cells, at_least: int) -> None:
    """Heads of one shape that read the same value become a stack, where there are `at_least` of them."""
    if at_least < 2:
        return
    heads: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells.cells.values():
        if cell.kind == "head" and cells.nodes(cell)[0].component:
            heads[head_name(cells.nodes(cell)[0].component)].append(cell)
    alike: dict[Hashable, list[list[str]]] = defaultdict(list)
    for chain in heads.values():
        ids = [c.id for c in chain]
        outputs = [r for c in ids for r in sorted(cells.readers[c]) if cells.cells[r].kind == "output"]
        inside = {*ids, *outputs}
        others = {r for c in inside for r in cells.readers[c]} - inside
        sources = {s for c in ids for s in cells.sources[c]} - inside
        if others or not outputs:
            continue  # something else reads it: it stays on its own
        key = (frozenset(sources), tuple(_shape_of(cells, c) for c in chain), len(outputs))
        alike[key].append([*ids, *outputs])
    for units in alike.values():
        if len(units) >= at_least:
            for first, *rest in zip(*units, strict=True):
                cells.lay_on(first, list(rest))


def _shape_of(cells: Cells, cell: Cell) -> Hashable:
    """What a module of a head must share with another to lie on it."""
    graph, nodes = cells.graph, cells.nodes(cell)
    component = graph.components[nodes[0].component]
    parameters = tuple((name, tuple(p.shape)) for name, p in component.meta.named_parameters())
    facts = tuple(sorted(str((k, v)) for k, v in nodes[0].facts.stated().items()))
    reads = tuple(r if cells.kind_of(r) != "head" else "" for r in nodes[0].refs())
    return component.family, parameters, tuple(info_text(n.info) for n in nodes), facts, reads
