"""Rewrites a graph so that one call computes what several did, on the batches of all of them joined into one."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import networkx as nx
import torch

from graphmodel.components.structure import map_structures
from graphmodel.components.tensors import Batch, Dim, TensorInfo
from graphmodel.graph.facts import NO_FACTS, Facts
from graphmodel.graph.types import Info, ModelGraph, Node, Ref, map_values
from graphmodel.passes.purity import why_impure


@dataclass(frozen=True)
class SharedCall:
    """One call in the place of several.

    Attributes:
        name: the name of its node.
        members: the calls that it replaces, in the order in which their batches are joined.
        sizes: for each member, the value whose first dimension counts the samples of its batch.
        rows: rows of the result for each of these; 0 if the result is the same for every batch, None if it cannot be
            divided, which no other call asks for.
        kept: the members stay too, for calls that are not shared: they cost nothing, such as the size of a tensor.
    """

    name: str
    members: tuple[str, ...]
    sizes: tuple[str, ...]
    rows: int | None
    kept: bool = False


def rewritten(graph: ModelGraph, calls: Sequence[SharedCall], taken: Iterable[str] = ()) -> ModelGraph | None:
    """The graph with shared calls; None if they would have to wait for each other.

    Args:
        graph: the graph.
        calls: the shared calls, each after those that it reads.
        taken: further names that no node may have.
    """
    return _Rewriter(graph, calls, {*graph.nodes, *graph.inputs, *(c.name for c in calls), *taken}).run()


class _Rewriter:
    def __init__(self, graph: ModelGraph, calls: Sequence[SharedCall], taken: set[str]) -> None:
        self.graph, self.calls, self.taken = graph, calls, taken
        self.owner = {m: (c, i) for c in calls for i, m in enumerate(c.members)}
        self.order = {name: i for i, name in enumerate(graph.nodes)}
        self.nodes: dict[str, Node] = {}
        self.priority: dict[str, int] = {}
        self.joined: dict[tuple[str, ...], str] = {}
        self.counted: dict[tuple[str, int], str] = {}
        self.made: set[str] = set()
        self.constants: set[str] = set()
        for name, node in graph.nodes.items():
            if node.kind == "trunk" and self.constants.issuperset(node.refs()):
                self.constants.add(name)  # parameters and the like, which read no input
        gone = {m for c in calls if not c.kept for m in c.members}
        self.rename = self.joined_again(gone)
        self.stay = [n for name, n in graph.nodes.items() if name not in gone and name not in self.rename]
        self.pieces = {c.name: self.pieces_of(c) for c in calls}

    def joined_again(self, gone: set[str]) -> dict[str, str]:
        """Nodes that join all parts of a shared call again, by its name: they are its result."""
        rename: dict[str, str] = {}
        for name, node in self.graph.nodes.items():
            dim = node.args[1] if len(node.args) > 1 else 0
            if node.target is not torch.cat or dim != 0 or node.kwargs or name in gone:
                continue
            found = self.whole(node.refs())
            if found is not None and found.rows and len(found.members) > 1:
                rename[name] = found.name
        return rename

    def whole(self, refs: Sequence[str]) -> SharedCall | None:
        """The shared call whose members these are, all in order."""
        call = self.owner[refs[0]][0] if refs and refs[0] in self.owner else None
        return call if call is not None and list(call.members) == list(refs) else None

    # -- which parts of a result are read ------------------------------------------------------------------------------

    def pieces_of(self, call: SharedCall) -> list[tuple[int, ...]]:
        """The pieces that a result is divided into, as positions of members; none if it is read as a whole."""
        single: set[int] = set()
        several: list[tuple[int, ...]] = []
        read = {r for node in self.stay for r in node.refs()}
        read |= {n for output in self.graph.outputs.values() for n in output.parts.values()}
        read |= {name for c in self.calls if c.rows for name in c.sizes}
        if not call.kept:
            single |= {i for i, member in enumerate(call.members) if member in read}
        for other in self.calls:
            for refs in self.ports(other):
                owners = [self.owner.get(r) for r in refs]
                positions = tuple(o[1] for o in owners if o is not None and o[0] is call)
                if not positions or not call.rows or self.whole(refs) is not None:
                    continue
                run = len(positions) == len(refs) and positions == tuple(range(positions[0], positions[-1] + 1))
                if run and len(positions) > 1:
                    several += [positions] if positions not in several else []
                else:
                    single |= set(positions)
        for positions in several:
            if any(p in single for p in positions) or any(set(positions) & set(o) for o in several if o != positions):
                single |= set(positions)
        groups = [p for p in several if not single & set(p)]
        if not single and not groups:
            return []
        grouped = {i for p in groups for i in p}
        return sorted([*groups, *((i,) for i in range(len(call.members)) if i not in grouped)])

    def ports(self, call: SharedCall) -> list[tuple[str, ...]]:
        """For each value that a call reads, the one that each member reads."""
        return list(zip(*(self.graph.nodes[m].refs() for m in call.members), strict=True))

    # -- writing -------------------------------------------------------------------------------------------------------

    def run(self) -> ModelGraph | None:
        for node in self.stay:
            self.put(node.reading(self.rename), self.order[node.name])
        for call in self.calls:
            self.write(call)
        outputs = {
            name: replace(output, parts={key: self.rename.get(n, n) for key, n in output.parts.items()})
            for name, output in self.graph.outputs.items()
        }
        read = {n for output in outputs.values() for n in output.parts.values()}
        pieces = {n for n, node in self.nodes.items() if node.target is operator.getitem and n in self.made}
        # A constant of one pass is read by nobody once its readers are shared: they read another's.
        spare = pieces | self.constants
        while unread := (spare & self.nodes.keys()) - read.union(*(n.refs() for n in self.nodes.values())):
            self.nodes = {name: node for name, node in self.nodes.items() if name not in unread}
        order = self.sorted()
        if order is None:
            return None
        return replace(self.graph, nodes={name: self.nodes[name] for name in order}, outputs=outputs)

    def put(self, node: Node, priority: int) -> str:
        self.nodes[node.name], self.priority[node.name] = node, priority
        return node.name

    def unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def write(self, call: SharedCall) -> None:
        members = [self.graph.nodes[m] for m in call.members]
        priority = min(self.order[m] for m in call.members)
        values = iter([self.value(refs, call, priority) for refs in self.ports(call)])
        first = members[0]
        args, kwargs = map_values((first.args, dict(first.kwargs)), lambda ref: Ref(next(values)))
        views = sum(m.facts.grouped_views or 1 for m in members) if any(m.facts.grouped_views for m in members) else 0
        names = tuple(dict.fromkeys(f for m in members for f in m.facts.features))
        changed_by = tuple(self.owner[n][0].name if n in self.owner else n for n in first.facts.changed_by)
        made = replace(
            first,
            name=call.name,
            args=args,
            kwargs=kwargs,
            info=first.info if call.rows == 0 else sum_of_batches([m.info for m in members]),
            scope=f"batched_{first.scope}" if first.scope else "",
            facts=replace(first.facts, grouped_views=views, features=names, changed_by=changed_by),
        )
        self.put(made, priority)
        self.divide(call, members, priority)

    def value(self, refs: tuple[str, ...], call: SharedCall, priority: int) -> str:
        """What a shared call reads in the place of these values."""
        whole, owner = self.whole(refs), self.owner.get(refs[0])
        if whole is not None:
            return whole.name
        if owner is not None and (owner[0].rows == 0 or owner[0].kept):
            return owner[0].name
        if owner is not None:
            piece = tuple(i for r in refs if r in self.owner for i in (self.owner[r][1],))
            if piece in self.pieces[owner[0].name] and len(piece) == len(refs):
                return self.piece_name(owner[0], piece)
        if refs[0] in self.constants:
            return refs[0]
        if refs not in self.joined:
            infos = [self.graph.nodes[r].info for r in refs]
            name = self.unique(f"{call.name}_input")
            args = ([Ref(self.rename.get(r, r)) for r in refs],)
            node = Node(name, "op", "function", torch.cat, args, info=sum_of_batches(infos))
            self.joined[refs] = self.put(replace(node, span=self.graph.nodes[call.members[0]].span), priority)
        return self.joined[refs]

    def piece_name(self, call: SharedCall, piece: tuple[int, ...]) -> str:
        return call.members[piece[0]] if len(piece) == 1 else f"{call.members[piece[0]]}_to_{call.members[piece[-1]]}"

    def divide(self, call: SharedCall, members: Sequence[Node], priority: int) -> None:
        """Writes the pieces of a result that other calls read."""
        pieces = self.pieces[call.name]
        if not pieces or call.kept:
            return
        if not call.rows:
            for member in members:  # the same for every batch
                self.nodes = {k: n.reading({member.name: call.name}) for k, n in self.nodes.items()}
                self.rename[member.name] = call.name
            return
        sizes = [Ref(self.size(call, piece, priority)) for piece in pieces]
        infos = [sum_of_batches([members[i].info for i in piece]) for piece in pieces]
        split = Node(
            self.unique(f"{call.name}_split"), "op", "function", torch.split, (Ref(call.name), sizes), info=tuple(infos)
        )
        self.put(replace(split, span=members[0].span), priority)
        for position, (piece, info) in enumerate(zip(pieces, infos, strict=True)):
            first = members[piece[0]]
            facts = Facts(features=first.facts.features) if len(piece) == 1 else NO_FACTS
            args = (Ref(split.name), position)
            name = self.piece_name(call, piece)
            node = Node(name, "op", "function", operator.getitem, args, info=info, span=first.span, facts=facts)
            self.made.add(self.put(node, priority))

    def size(self, call: SharedCall, piece: tuple[int, ...], priority: int) -> str:
        """The number of rows of a piece."""
        total = ""
        for i in piece:
            source = self.rename.get(call.sizes[i], call.sizes[i])
            key = (source, call.rows or 1)
            if key not in self.counted:
                name = self.unique(f"{source}_size")
                if (source, 1) not in self.counted:
                    self.put(Node(name, "op", "method", "size", (Ref(source), 0)), priority)
                    self.counted[source, 1] = name
                if key not in self.counted:
                    args = (Ref(self.counted[source, 1]), call.rows)
                    node = Node(self.unique(f"{source}_rows"), "op", "function", operator.mul, args)
                    self.counted[key] = self.put(node, priority)
            found = self.counted[key]
            if not total:
                total = found
                continue
            node = Node(self.unique(f"{call.name}_rows"), "op", "function", operator.add, (Ref(total), Ref(found)))
            total = self.put(node, priority)
        return total

    def sorted(self) -> list[str] | None:
        """The nodes in an order close to the old one; what must not be reordered keeps its order."""
        network: nx.DiGraph[str] = nx.DiGraph()
        network.add_nodes_from(self.nodes)
        for name, node in self.nodes.items():
            network.add_edges_from((ref, name) for ref in node.refs())
        shared = {c.name for c in self.calls}
        for of in (True, False):
            names = [n for n, node in self.nodes.items() if (n in shared) is of and self.is_ordered(node, of)]
            network.add_edges_from(pairwise(names))
        if not nx.is_directed_acyclic_graph(network):
            return None
        place = {name: i for i, name in enumerate(self.nodes)}
        return list(nx.lexicographical_topological_sort(network, key=lambda n: (self.priority[n], place[n])))

    def is_ordered(self, node: Node, shared: bool) -> bool:
        if node.facts.of_order():
            return True
        if shared or node.call != "module" or node.name not in self.graph.nodes:
            return False
        return why_impure(self.graph, self.graph.nodes[node.name]) is not None


def sum_of_batches(infos: Sequence[Info]) -> Info:
    """What a call returns for several batches joined into one."""

    def leaf(*each: Any) -> Any:
        if not isinstance(each[0], TensorInfo) or not each[0].shape:
            return each[0]
        total: Dim = sum_of(info.shape[0] for info in each)
        return replace(each[0], shape=(total, *each[0].shape[1:]))

    return map_structures(leaf, *infos)


def sum_of(dims: Iterable[Dim]) -> Dim:
    """The sum of several dimensions."""
    total: Dim = 0
    for dim in dims:
        if isinstance(dim, Batch) and isinstance(total, Batch):
            total = Batch(dim.scale + total.scale, dim.offset + total.offset)
        elif isinstance(dim, Batch) or isinstance(total, Batch):
            batch, number = (dim, total) if isinstance(dim, Batch) else (total, dim)
            assert isinstance(batch, Batch)
            assert isinstance(number, int)
            total = replace(batch, offset=batch.offset + number)
        else:
            total += dim
    return total
