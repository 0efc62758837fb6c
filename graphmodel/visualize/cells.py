"""Sorts the calls of a graph into cells, the boxes of a picture before they have words, and folds cells together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from graphmodel.graph.text import target_text
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.visualize.picture import BoxKind

Sharing = Literal["merge", "split"]


@dataclass
class Cell:
    """Calls that one box stands for, in the order of execution.

    Attributes:
        id: the id of its box.
        kind: the kind of its box.
        frame: the id of its frame.
        members: names of its nodes.
        repeats: how many equal stages in a row it stands for.
        stacked: ids of the cells that were laid on it, itself first; empty where none were.
        ghost: it shows what the model leaves out.
    """

    id: str
    kind: BoxKind
    frame: str = ""
    members: list[str] = field(default_factory=list)
    repeats: int = 1
    stacked: tuple[str, ...] = ()
    ghost: bool = False


class Cells:
    """Every node's cell, and the cells as an acyclic graph.

    Args:
        graph: the calls.
        sharing: `merge` lets the passes through a trunk share cells, `split` gives each pass its own.
        ghosts: names of nodes that are shown though the model does without them.
    """

    def __init__(self, graph: ModelGraph, sharing: Sharing, ghosts: Iterable[str] = ()) -> None:
        self.graph = graph
        self.sharing = sharing
        self.ghosts = frozenset(ghosts)
        self.order = {name: i for i, name in enumerate(graph.nodes)}
        self.cells: dict[str, Cell] = {}
        self.owner: dict[str, str] = {}
        self.joints = {n for n, node in graph.nodes.items() if is_joint(graph, node)}
        """Nodes that only put the views of an input together; the arrow from the input says so."""
        self.trunk_of = {n.scope: n.component for n in graph.nodes.values() if n.scope and n.component}
        seen: Counter[tuple[str, str, str]] = Counter()
        for name, node in graph.nodes.items():
            if name not in self.joints:
                self.place(node, seen)
        for output in graph.outputs.values():
            for key in output.parts:
                self.cells[f"output:{key}"] = Cell(f"output:{key}", "output")
        self.readers: dict[str, set[str]] = {c: set() for c in self.cells}
        self.sources: dict[str, set[str]] = {c: set() for c in self.cells}
        for source, target in self.node_edges():
            first, second = self.owner[source], self.owner.get(target, target)
            if first != second:
                self.readers[first].add(second)
                self.sources[second].add(first)

    def place(self, node: Node, seen: Counter[tuple[str, str, str]]) -> None:
        """Puts a node into its cell, which is made where it is missing."""
        if node.kind == "input":
            name = node.name if node.call == "placeholder" else node.refs()[0]
            self.put(node, f"input:{name}", "input")
        elif node.kind == "head" and node.component:
            self.put(node, f"head:{node.component}", "head", head_frame(node.component))
        elif node.kind == "head" and node.refs() and self.kind_of(node.refs()[0]) == "head":
            self.put(node, self.owner[node.refs()[0]], "head")  # one of several tensors that a head returns
        elif node.kind == "trunk":
            trunk = self.trunk_of.get(node.scope, node.component)
            split = self.sharing == "split"
            label = target_text(node.target)
            label = label.removeprefix(f"{trunk}.") if node.component else label.rsplit(".", 1)[-1]
            seen[node.scope, node.call, label] += 1
            number = seen[node.scope, node.call, label]
            place = f"@{node.scope}" if split else ""
            self.put(node, f"{trunk}/{label}#{number}{place}", "stage", f"trunk:{trunk}{place}")
        else:
            self.put(node, f"op:{node.name}", "op")

    def put(self, node: Node, id: str, kind: BoxKind, frame: str = "") -> None:
        ghost = node.name in self.ghosts
        cell = self.cells.setdefault(id, Cell(id, kind, frame, ghost=ghost))
        cell.members.append(node.name)
        cell.ghost = cell.ghost and ghost
        self.owner[node.name] = id

    def kind_of(self, node: str) -> str:
        return self.cells[self.owner[node]].kind if node in self.owner else ""

    def node_edges(self) -> list[tuple[str, str]]:
        """Edges of the graph, joints left out, outputs as `output:KEY`."""
        edges: dict[tuple[str, str], None] = {}
        for name, node in self.graph.nodes.items():
            if name not in self.joints:
                for source in node.refs():
                    for real in self.through(source):
                        edges[real, name] = None
        for output in self.graph.outputs.values():
            for key, name in output.parts.items():
                for real in self.through(name):
                    edges[real, f"output:{key}"] = None
        return list(edges)

    def through(self, name: str) -> list[str]:
        """The node itself, or the views that it joins."""
        return list(dict.fromkeys(self.graph.nodes[name].refs())) if name in self.joints else [name]

    def nodes(self, cell: Cell | str) -> list[Node]:
        """The calls of a cell."""
        found = self.cells[cell] if isinstance(cell, str) else cell
        return [self.graph.nodes[m] for m in found.members]

    def is_acyclic(self) -> bool:
        """Whether the cells can be drawn in one direction."""
        waiting = {c: len(s) for c, s in self.sources.items()}
        ready = [c for c, n in waiting.items() if n == 0]
        done = 0
        while ready:
            done += 1
            for reader in self.readers[ready.pop()]:
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    ready.append(reader)
        return done == len(self.cells)

    def can_fold(self, first: str, second: str) -> bool:
        """Whether `second`, which reads `first`, can join it without closing a circle."""
        pending = [c for c in self.readers[first] if c != second]
        seen = set(pending)
        while pending:
            cell = pending.pop()
            if cell == second:
                return False
            new = self.readers[cell] - seen
            seen |= new
            pending += new
        return True

    def fold(self, first: str, second: str) -> None:
        """Moves the calls of `second` into `first`."""
        into, gone = self.cells[first], self.cells.pop(second)
        into.members = sorted([*into.members, *gone.members], key=self.order.__getitem__)
        into.ghost = into.ghost and gone.ghost
        for name in gone.members:
            self.owner[name] = first
        for near, far in ((self.readers, self.sources), (self.sources, self.readers)):
            for cell in near.pop(second):
                far[cell].discard(second)
                if cell != first:
                    far[cell].add(first)
                    near[first].add(cell)
            near[first].discard(second)

    def lay_on(self, first: str, others: list[str]) -> None:
        """Makes one stack of equal cells."""
        for other in others:
            self.fold(first, other) if self.cells[other].members else self.drop(first, other)
        self.cells[first] = replace(self.cells[first], stacked=(first, *others))

    def drop(self, first: str, second: str) -> None:
        """Lets output `second` disappear in `first`."""
        self.cells.pop(second)
        self.owner[second] = first
        for source in self.sources.pop(second):
            self.readers[source].discard(second)
            self.readers[source].add(first)
            self.sources[first].add(source)
        self.readers.pop(second)


def head_frame(component: str) -> str:
    """The frame of a module of a head with several; empty for a head of one."""
    return f"head:{head_name(component)}" if component.count(".") > 1 else ""


def is_joint(graph: ModelGraph, node: Node) -> bool:
    """Whether a node only puts the views of one input together."""
    if node.kind != "op" or not node.facts.grouped_views:
        return False
    views = [graph.nodes[r] for r in node.refs()]
    return all(v.kind == "input" and v.call != "placeholder" for v in views) and len({v.refs()[0] for v in views}) == 1
