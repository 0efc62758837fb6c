"""Groups the calls of a graph into the boxes of a picture: passes that share a trunk, details, repeats, stacks.

The groups form a graph of their own, which must stay acyclic to be drawn in one direction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from torch import nn

from graphmodel.graph.text import info_text, target_text
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.visualize.picture import BoxKind, Options, Sharing

GLUE = frozenset({"getitem", "size", "split", "cat", "getattr"})
"""Operations that only take values apart and put them together."""
QUIET = frozenset({"getitem", "size", "getattr", "contiguous", "expand"})
"""Operations that a box does not mention beside others."""


@dataclass
class Group:
    """Calls that one box represents, in the order of execution.

    Attributes:
        id: the id of its box.
        kind: the kind of its box.
        frame: the id of its frame.
        members: names of its nodes.
        repeats: how many consecutive equal stages it represents.
        stacked: ids of the groups that are stacked in it, its own first; empty if it is not a stack.
        ghost: it shows a part that the model leaves out.
    """

    id: str
    kind: BoxKind
    frame: str = ""
    members: list[str] = field(default_factory=list)
    repeats: int = 1
    stacked: tuple[str, ...] = ()
    ghost: bool = False


class Grouping:
    """The group of every node, and the graph of the groups.

    Args:
        graph: the calls.
        sharing: `merge` lets the passes through a trunk share groups, `split` gives each pass its own.
        ghosts: names of nodes that are shown although the model leaves them out.
        stages: the path of the stage that a node is a layer of; such a node lies in a frame of its stage.

    Attributes:
        groups: the groups by id; an output is a group without members.
        owner: the id of each node's group.
        network: the groups as a networkx graph.
        view_joins: nodes that only put the views of one input together; the arrow from the input says so.
        trunk_of: the trunk of each pass.
    """

    def __init__(
        self, graph: ModelGraph, sharing: Sharing, ghosts: Iterable[str] = (), stages: Mapping[str, str] | None = None
    ) -> None:
        self.graph = graph
        self.stages = stages or {}
        self.sharing = sharing
        self.ghosts = frozenset(ghosts)
        self.order = {name: i for i, name in enumerate(graph.nodes)}
        self.groups: dict[str, Group] = {}
        self.owner: dict[str, str] = {}
        self.view_joins = {n for n, node in graph.nodes.items() if joins_views(graph, node)}
        self.trunk_of = {n.scope: n.component for n in graph.nodes.values() if n.scope and n.component}
        seen: Counter[tuple[str, str, str]] = Counter()
        for name, node in graph.nodes.items():
            if name not in self.view_joins:
                self._assign(node, seen)
        for output in graph.outputs.values():
            for key in output.parts:
                self.groups[f"output:{key}"] = Group(f"output:{key}", "output")
        self.network: nx.DiGraph[str] = nx.DiGraph()
        self.network.add_nodes_from(self.groups)
        ends = ((self.owner[s], self.owner.get(t, t)) for s, t in self.node_edges())
        self.network.add_edges_from((s, t) for s, t in ends if s != t)

    def _assign(self, node: Node, seen: Counter[tuple[str, str, str]]) -> None:
        """Puts a node into its group, which is created if it is missing."""
        if node.kind == "input":
            name = node.name if node.call == "placeholder" else node.refs()[0]
            self._put(node, f"input:{name}", "input")
        elif node.kind == "head" and node.component:
            self._put(node, f"head:{node.component}", "head", head_frame(node.component))
        elif node.kind == "head" and node.refs() and self.kind_of(node.refs()[0]) == "head":
            self._put(node, self.owner[node.refs()[0]], "head")  # one of several tensors that a head returns
        elif node.kind == "trunk":
            trunk = self.trunk_of.get(node.scope, node.component)
            label = target_text(node.target)
            label = label.removeprefix(f"{trunk}.") if node.component else label.rsplit(".", 1)[-1]
            seen[node.scope, node.call, label] += 1
            number = seen[node.scope, node.call, label]
            place = f"@{node.scope}" if self.sharing == "split" else ""
            stage = self.stages.get(node.name)
            frame = f"trunk:{trunk}{place}" if stage is None else f"stage:{stage}{place}"
            self._put(node, f"{trunk}/{label}#{number}{place}", "stage", frame)
        else:
            self._put(node, f"op:{node.name}", "op")

    def _put(self, node: Node, id: str, kind: BoxKind, frame: str = "") -> None:
        ghost = node.name in self.ghosts
        group = self.groups.setdefault(id, Group(id, kind, frame, ghost=ghost))
        group.members.append(node.name)
        group.ghost = group.ghost and ghost
        self.owner[node.name] = id

    def kind_of(self, node: str) -> str:
        """The kind of a node's box; empty for one without a group."""
        return self.groups[self.owner[node]].kind if node in self.owner else ""

    def node_edges(self) -> list[tuple[str, str]]:
        """Edges of the graph without the joins of views; outputs are named `output:KEY`."""
        edges: dict[tuple[str, str], None] = {}
        for name, node in self.graph.nodes.items():
            if name not in self.view_joins:
                edges |= {(real, name): None for source in node.refs() for real in self.through(source)}
        for output in self.graph.outputs.values():
            for key, name in output.parts.items():
                edges |= {(real, f"output:{key}"): None for real in self.through(name)}
        return list(edges)

    def through(self, name: str) -> list[str]:
        """The node itself, or the views that it joins."""
        return list(dict.fromkeys(self.graph.nodes[name].refs())) if name in self.view_joins else [name]

    def nodes(self, group: Group | str) -> list[Node]:
        """The calls of a group."""
        found = self.groups[group] if isinstance(group, str) else group
        return [self.graph.nodes[m] for m in found.members]

    def readers(self, id: str) -> list[str]:
        """Ids of the groups that read a group, sorted."""
        return sorted(self.network.successors(id))

    def sources(self, id: str) -> list[str]:
        """Ids of the groups that a group reads, sorted."""
        return sorted(self.network.predecessors(id))

    def is_acyclic(self) -> bool:
        """Whether the groups can be drawn in one direction."""
        return nx.is_directed_acyclic_graph(self.network)

    def can_fold(self, first: str, second: str) -> bool:
        """Whether `second`, which reads `first`, can join it without creating a cycle."""
        return not any(r != second and nx.has_path(self.network, r, second) for r in self.network.successors(first))

    def fold(self, first: str, second: str) -> None:
        """Moves the calls of `second` into `first`; an output without calls disappears in it."""
        into, gone = self.groups[first], self.groups.pop(second)
        into.members = sorted([*into.members, *gone.members], key=self.order.__getitem__)
        into.ghost = into.ghost and gone.ghost
        self.owner |= dict.fromkeys(gone.members or [second], first)
        edges = [(s, first) for s in self.network.predecessors(second)]
        edges += [(first, r) for r in self.network.successors(second)]
        self.network.remove_node(second)
        self.network.add_edges_from((s, t) for s, t in edges if s != t)

    def has_feature(self, id: str) -> bool:
        """Whether a feature leaves a group."""
        return any(n.facts.features for n in self.nodes(id))


def grouped(
    graph: ModelGraph, options: Options, ghosts: Iterable[str] = (), stages: Mapping[str, str] | None = None
) -> Grouping:
    """The groups of a graph, folded as the options ask.

    Passes that differ inside a trunk may not be drawable on top of each other; each pass is then drawn on its own.
    """
    ghosts = frozenset(ghosts)
    grouping = Grouping(graph, options.sharing, ghosts, stages)
    if not grouping.is_acyclic():
        grouping = Grouping(graph, "split", ghosts, stages)
    if options.depth <= 0:
        fold_whole_trunks(grouping)
    elif options.depth <= 2:
        fold_details(grouping)
    if options.depth == 1:
        fold_repeats(grouping)
    if options.depth <= 2:
        fold_quiet(grouping)
        fold_operations(grouping)
    stack_heads(grouping, options.stack)
    return grouping


# -- folds ------------------------------------------------------------------------------------------------------------


def fold_whole_trunks(grouping: Grouping) -> None:
    """Makes one group of each trunk, or of each pass through it."""
    frames: dict[str, list[str]] = defaultdict(list)
    for group in grouping.groups.values():
        if group.kind == "stage":
            frames[group.frame].append(group.id)
    for first, *others in frames.values():
        for other in others:
            grouping.fold(first, other)
        grouping.groups[first].frame = ""


def fold_details(grouping: Grouping, *, layers: bool = True) -> None:
    """Folds small calls of a trunk into the small call that reads them; a feature always ends its group.

    Args:
        grouping: the groups.
        layers: whether single layers are details, too, or only operations.
    """
    graph = grouping.graph

    def small(id: str) -> bool:
        group, nodes = grouping.groups[id], grouping.nodes(id)
        details = all(is_small(graph, n) and (layers or graph.module_of(n) is None) for n in nodes)
        return group.kind == "stage" and details

    def joins(first: str, second: str) -> bool:
        one, other = grouping.groups[first], grouping.groups[second]
        together = one.frame == other.frame and one.ghost == other.ghost and len(grouping.readers(first)) == 1
        return small(first) and together and not grouping.has_feature(first) and small(second)

    _fold_along(grouping, joins)


def fold_quiet(grouping: Grouping) -> None:
    """Folds calls of a trunk that only pick from a value, or ask for its size, into what they read or a reader.

    A call whose result is a feature only joins a group that nothing else reads.
    """
    for id in list(grouping.groups):
        group = grouping.groups.get(id)
        if group is None or group.kind != "stage":
            continue
        if any(operation_name(n) not in QUIET for n in grouping.nodes(group)):
            continue
        if grouping.has_feature(id):
            alone = [s for s in grouping.sources(id) if len(grouping.readers(s)) == 1]
            pairs = [(s, id) for s in alone if not grouping.has_feature(s)]
        else:
            pairs = [(s, id) for s in grouping.sources(id)] + [(id, r) for r in grouping.readers(id)]
        for first, second in pairs:
            one, other = grouping.groups[first], grouping.groups[second]
            if one.frame == other.frame and one.ghost == other.ghost and grouping.can_fold(first, second):
                grouping.fold(first, second)
                break


def fold_operations(grouping: Grouping) -> None:
    """Folds operations between trunks and heads: those that only regroup values, and chains with single readers."""

    def glue(id: str) -> bool:
        return all(operation_name(n) in GLUE for n in grouping.nodes(id))

    def joins(first: str, second: str) -> bool:
        if grouping.groups[first].kind != "op" or grouping.groups[second].kind != "op":
            return False
        chain = len(grouping.readers(first)) == 1 and len(grouping.sources(second)) == 1
        return chain or (glue(first) and glue(second))

    _fold_along(grouping, joins)


def fold_repeats(grouping: Grouping) -> None:
    """Folds consecutive equal stages; a stage with a feature is the last of its run."""
    for id in list(grouping.groups):
        if id not in grouping.groups or grouping.groups[id].kind != "stage":
            continue
        key = _stage_key(grouping, id)
        while key is not None and not grouping.has_feature(id) and len(grouping.readers(id)) == 1:
            (after,) = grouping.readers(id)
            if _stage_key(grouping, after) != key or not grouping.can_fold(id, after):
                break
            grouping.fold(id, after)
            grouping.groups[id].repeats += 1


def stack_heads(grouping: Grouping, at_least: int) -> None:
    """Stacks the heads of a grid, and `at_least` heads of equal shapes that read the same value."""
    if at_least < 2:
        return
    heads: dict[str, list[Group]] = defaultdict(list)
    for group in grouping.groups.values():
        if group.kind == "head" and grouping.nodes(group)[0].component:
            heads[head_name(grouping.nodes(group)[0].component)].append(group)
    alike: dict[tuple[tuple[Any, ...], int], list[list[str]]] = defaultdict(list)
    spec = grouping.graph.spec
    for name, chain in heads.items():
        ids = [g.id for g in chain]
        outputs = [r for g in ids for r in grouping.readers(g) if grouping.groups[r].kind == "output"]
        inside = {*ids, *outputs}
        if not outputs or not inside.issuperset(r for g in inside for r in grouping.readers(g)):
            continue  # something else reads it, so it keeps its own box
        sources = frozenset(s for g in ids for s in grouping.sources(g)) - inside
        key: tuple[Any, ...] = sources, tuple(_head_key(grouping, g) for g in chain)
        if name in spec.heads and spec.heads[name].settings.grid:
            key = spec.heads[name].settings.grid, len(chain)
        alike[key, len(outputs)].append([*ids, *outputs])
    for (key, _), units in alike.items():
        if len(units) >= (2 if isinstance(key[0], str) else at_least):
            for first, *others in zip(*units, strict=True):
                for other in others:
                    grouping.fold(first, other)
                grouping.groups[first].stacked = (first, *others)


def _fold_along(grouping: Grouping, joins: Callable[[str, str], bool]) -> None:
    """Folds every pair of neighbours that `joins` accepts, until none is left."""
    changed = True
    while changed:
        changed = False
        for first in list(grouping.groups):
            for second in grouping.readers(first) if first in grouping.groups else ():
                if joins(first, second) and grouping.can_fold(first, second):
                    grouping.fold(first, second)
                    changed = True
                    break


def _stage_key(grouping: Grouping, id: str) -> Hashable | None:
    """What two stages must share to count as equal; None if the group is not a single stage."""
    group = grouping.groups[id]
    nodes = grouping.nodes(group)
    modules = [grouping.graph.module_of(n) for n in nodes]
    if group.kind != "stage" or not modules or any(m is None for m in modules):
        return None
    last = {n.scope: n for n in nodes}
    first = modules[0]
    assert first is not None
    return (
        group.frame,
        type(first),
        tuple((name, tuple(p.shape)) for name, p in first.named_parameters()),
        tuple((scope, info_text(n.info)) for scope, n in last.items()),
        tuple(sorted(str((k, v)) for k, v in nodes[0].facts.stated().items() if k != "features")),
        group.ghost,
    )


def _head_key(grouping: Grouping, group: Group) -> Hashable:
    """What a module of a head must share with another to be stacked with it."""
    nodes = grouping.nodes(group)
    component = grouping.graph.components[nodes[0].component]
    parameters = tuple((name, tuple(p.shape)) for name, p in component.meta.named_parameters())
    facts = tuple(sorted(str((k, v)) for k, v in nodes[0].facts.stated().items()))
    reads = tuple(r if grouping.kind_of(r) != "head" else "" for r in nodes[0].refs())
    return component.family, parameters, tuple(info_text(n.info) for n in nodes), facts, reads


# -- calls ------------------------------------------------------------------------------------------------------------


def head_frame(component: str) -> str:
    """The frame of a module in a chain; empty if the head is a single module."""
    return f"head:{head_name(component)}" if component.count(".") > 1 else ""


def joins_views(graph: ModelGraph, node: Node) -> bool:
    """Whether a node only puts the views of one input together."""
    if node.kind != "op" or not node.facts.grouped_views:
        return False
    views = [graph.nodes[r] for r in node.refs()]
    return all(v.kind == "input" and v.call != "placeholder" for v in views) and len({v.refs()[0] for v in views}) == 1


def is_small(graph: ModelGraph, node: Node) -> bool:
    """Whether a call of a trunk is a detail beside its stages: a function, a parameter, one layer of torch's own."""
    module = graph.module_of(node)
    if module is None:
        return True
    own = [c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules") and c is not nn.Module]
    return bool(own) and not list(module.children())


def operation_name(node: Node) -> str:
    """The bare name of a function or method; empty for other calls."""
    if node.call not in ("function", "method"):
        return ""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))
