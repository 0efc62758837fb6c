"""The graph's types: calls as nodes, ordered ports as edges, components that calls share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal

import networkx as nx
import torch
from torch import nn

from graphmodel.components.structure import leaves, map_structure
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Diagnostic, Span
from graphmodel.graph.facts import NO_FACTS, Facts
from graphmodel.spec.display import Displayed
from graphmodel.spec.model import HeadSpec, InputSpec, ModelSpec


class InvalidGraph(AssertionError):
    """A graph that breaks an invariant: a fault of the compiler or of a pass, never of the user."""


Kind = Literal["input", "trunk", "op", "head"]
Call = Literal["placeholder", "module", "function", "method", "attribute"]
FX_OPS: Mapping[Call, str] = {
    "placeholder": "placeholder",
    "module": "call_module",
    "function": "call_function",
    "method": "call_method",
    "attribute": "get_attr",
}
"""What torch.fx calls each kind of call."""
Info = Any
"""A `TensorInfo`, or a tuple, list or dict of them; None for values that are not tensors."""


@dataclass(frozen=True)
class Ref:
    """The value of another node, as an argument."""

    node: str


@dataclass(frozen=True)
class Node:
    """One call.

    Attributes:
        name: unique in the graph; the variable's name in the emitted code.
        kind: what it is to the user: an input, a trunk stage, an operation between, a module of a head.
        call: how it is called.
        target: a dotted path from the module's root, a method's name, or a function.
        args: positional arguments; `Ref` marks values of other nodes.
        kwargs: keyword arguments.
        component: whose it is: `trunk`, `trunks.student`, `heads.jigsaw.1`; empty for inputs and operations.
        info: what it returns.
        span: the YAML it comes from.
        scope: the trunk pass it belongs to, such as `crops_224`.
        facts: what else is known of it, such as the features that its value is; passes add to them.
    """

    name: str
    kind: Kind
    call: Call
    target: str | Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    component: str = ""
    info: Info = None
    span: Span | None = None
    scope: str = ""
    facts: Facts = NO_FACTS

    @property
    def path(self) -> str:
        """The path of what it calls inside of its component; empty if it calls the component itself."""
        return path_inside(str(self.target), self.component)

    def refs(self) -> tuple[str, ...]:
        """Names of the nodes it reads, in port order, repeats included."""
        return self._refs

    @cached_property
    def _refs(self) -> tuple[str, ...]:
        return tuple(r.node for r in leaves((self.args, self.kwargs)) if isinstance(r, Ref))

    def reading(self, rename: Mapping[str, str]) -> Node:
        """This node with its references renamed."""
        if rename.keys().isdisjoint(self._refs):
            return self
        return replace(self, args=map_refs(self.args, rename), kwargs=map_refs(dict(self.kwargs), rename))

    def with_facts(self, **facts: Any) -> Node:
        """This node with more facts."""
        return replace(self, facts=replace(self.facts, **facts))


def map_refs(value: Any, rename: Mapping[str, str]) -> Any:
    """`value` with every reference renamed."""
    return map_values(value, lambda ref: Ref(rename.get(ref.node, ref.node)))


def map_values(value: Any, of: Callable[[Ref], Any]) -> Any:
    """`value` with every reference replaced by `of(reference)`."""
    return map_structure(lambda leaf: of(leaf) if isinstance(leaf, Ref) else leaf, value)


@dataclass(frozen=True)
class Component:
    """Something with parameters that nodes call: a trunk, or one module of a head.

    Attributes:
        name: its path from the module's root.
        kind: trunk or head.
        family: the registered name.
        params: its validated parameters, nothing left to infer.
        build: makes it for real, with the library's own initialisation.
        meta: it on the meta device.
        given: it was handed in by the caller and is used as it is.
        span: where the spec names it.
        extras: what calls name and the component does not have, by path: modules without parameters that replace
            functions which act in training only, and constant tensors.
        copy_of: the path of the component whose initial weights it has; empty if it is not a copy.
    """

    name: str
    kind: Literal["trunk", "head"]
    family: str
    params: Any
    build: Callable[[], nn.Module]
    meta: nn.Module
    given: bool = False
    span: Span | None = None
    extras: Mapping[str, nn.Module | torch.Tensor] = field(default_factory=dict)
    copy_of: str = ""

    def __getstate__(self) -> dict[str, Any]:
        # A pickled module keeps its graph to be sliced and loaded into, never to build weights again.
        importable = getattr(sys.modules.get(type(self.params).__module__), type(self.params).__qualname__, None)
        params = self.params if importable is type(self.params) else SimpleNamespace(**dict(self.params or {}))
        return {**self.__dict__, "build": _built_already, "params": params}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _built_already() -> nn.Module:
    raise RuntimeError("this component came out of a pickle: its weights are in the module beside it")


@dataclass(frozen=True)
class Output:
    """One output of the model.

    Attributes:
        name: what the spec calls it.
        parts: the node of each tensor, by the key of the module's dict: `{"jigsaw": …}`, or `{"swav.embedding": …}`.
        nested: the head returns a list, so the list form nests it even where it has one part.
        head: the head it comes from, if any.
    """

    name: str
    parts: Mapping[str, str]
    nested: bool = False
    head: str | None = None

    @property
    def mapped(self) -> str:
        """The output of the mapping that it is, or is a part of."""
        return self.name.partition(".")[0]

    def part(self, key: str) -> Output:
        """One of its tensors as an output of its own."""
        return Output(key, {key: self.parts[key]}, head=self.head)


def find_output(outputs: Mapping[str, Output], name: str) -> Output | None:
    """The output of that name, or one tensor of an output with several: `swav.prototypes0`."""
    if name in outputs:
        return outputs[name]
    return next((output.part(name) for output in outputs.values() if name in output.parts), None)


def output_names(outputs: Mapping[str, Output]) -> list[str]:
    """Every name that `find_output` knows."""
    return list(dict.fromkeys(n for name, output in outputs.items() for n in (name, *output.parts)))


@dataclass(frozen=True)
class ModelGraph(Displayed):
    """A model as calls. Immutable: passes return new graphs.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> graph = graphmodel.compile(spec, device="meta").model_graph
        >>> list(graph.inputs), list(graph.outputs), list(graph.components)
        (['images'], ['features'], ['trunk'])

    Attributes:
        nodes: the calls in execution order, by name.
        components: what they call, by path.
        inputs: the model's inputs in order.
        outputs: its outputs by name.
        structure: nesting and order of the list form, names of outputs.
        spec: the spec it was built from.
        accepts: for each input the per-sample shapes that the graph serves, one for each view; None marks a dimension
            that may have any size.
        frozen: name patterns of what is frozen, in this module's names.
        one_batch: groups of inputs (each with the position of a view, if it has views) that are joined into one batch
            and must have one size.
        shared_stages: paths of modules that several inputs go through as one batch.
        read_together: groups of inputs (with the position of a view, as above) whose samples a call joins, each with
            the name of an output that has them; filled in before the optimizations.
        history: names of the passes that ran.
        summary: what each pass did, in a few words.
        notes: what passes declined to do and why.
    """

    nodes: Mapping[str, Node]
    components: Mapping[str, Component]
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, Output]
    structure: tuple[Any, ...]
    spec: ModelSpec
    accepts: Mapping[str, tuple[tuple[int | None, ...], ...]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    one_batch: tuple[tuple[tuple[str, int | None], ...], ...] = ()
    shared_stages: tuple[str, ...] = ()
    read_together: tuple[tuple[tuple[tuple[str, int | None], ...], str], ...] = ()
    history: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    notes: tuple[Diagnostic, ...] = ()

    @property
    def network(self) -> nx.MultiDiGraph[str]:
        """The same graph for networkx: node attribute `node`, one edge per port, keyed by its position."""
        network: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=self.spec.name)
        for name, node in self.nodes.items():
            network.add_node(name, node=node)
        for name, node in self.nodes.items():
            for port, source in enumerate(node.refs()):
                network.add_edge(source, name, key=port)
        return network

    def needed_by(self, names: Iterable[str]) -> set[str]:
        """These nodes and every node that they need, calls that change a needed value in place included."""
        found = set(names)
        pending = list(found)
        while pending:
            node = self.nodes.get(pending.pop())
            if node is not None:
                changers = [changer for changer in node.facts.changed_by if changer in self.nodes]
                new = {*node.refs(), *changers} - found
                found |= new
                pending += new
        return found

    def users(self) -> dict[str, list[str]]:
        """For each node, the nodes that read it."""
        users: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, node in self.nodes.items():
            for source in dict.fromkeys(node.refs()):
                users[source].append(name)
        return users

    def replace_nodes(self, nodes: Iterable[Node], **changes: Any) -> ModelGraph:
        """The graph with these nodes in this order; `drop` and `merge` remove nodes.

        Raises:
            InvalidGraph: if a fact about a value would be lost, because its node is gone or says less.
        """
        made = {n.name: n for n in nodes}
        for name, node in self.nodes.items():
            facts = made[name].facts if name in made else NO_FACTS
            if not facts.holds_values_of(node.facts):
                raise InvalidGraph(f"facts of `{name}` would be lost: {node.facts.stated()}")
        return replace(self, nodes=made, **changes)

    def drop(self, names: Iterable[str]) -> ModelGraph:
        """The graph without nodes that nothing reads any more, and without components that nothing calls.

        Raises:
            InvalidGraph: if a node that stays, or an output, reads one of them.
        """
        gone = set(names)
        kept = {name: node for name, node in self.nodes.items() if name not in gone}
        read = {r for node in kept.values() for r in node.refs()}
        read |= {n for output in self.outputs.values() for n in output.parts.values()}
        if read & gone:
            raise InvalidGraph(f"calls that are still read would be dropped: {', '.join(sorted(read & gone))}")
        called = {n.component for n in kept.values()}
        return replace(self, nodes=kept, components={k: c for k, c in self.components.items() if k in called})

    def merge(self, into: Mapping[str, str]) -> ModelGraph:
        """The graph with the values of some nodes taken over by others, which come before them.

        Readers and outputs are renamed; the survivor is given the facts about the value, such as names of features.

        Args:
            into: the surviving node by the name of the node that goes.

        Raises:
            InvalidGraph: if a fact would be lost: one that fixes the order of calls, or one in which two calls of the
                same thing differ.
        """

        def survivor(name: str) -> str:
            while name in into:
                name = into[name]
            return name

        rename = {name: survivor(name) for name in into}
        nodes: dict[str, Node] = {}
        for name, node in self.nodes.items():
            if name not in rename:
                nodes[name] = node.reading(rename)
                continue
            last = nodes.get(rename[name])
            if last is None:
                raise InvalidGraph(f"`{name}` would be merged into the later or unknown `{rename[name]}`")
            lost = node.facts.of_order()
            if (last.call, last.target) == (node.call, node.target) and last.facts.of_call() != node.facts.of_call():
                lost |= node.facts.of_call()
            if lost:
                raise InvalidGraph(f"facts of `{name}` would be lost by merging it into `{last.name}`: {lost}")
            nodes[last.name] = replace(last, facts=last.facts.taking_over(node.facts))
        outputs = {
            name: replace(output, parts={key: rename.get(n, n) for key, n in output.parts.items()})
            for name, output in self.outputs.items()
        }
        called = {n.component for n in nodes.values()}
        components = {k: c for k, c in self.components.items() if k in called}
        return replace(self, nodes=nodes, outputs=outputs, components=components)

    def module_of(self, node: Node) -> nn.Module | None:
        """The module on the meta device that a node calls; None if it calls no module."""
        if node.call != "module" or node.component not in self.components:
            return None
        component = self.components[node.component]
        extra = component.extras.get(node.path)
        return extra if isinstance(extra, nn.Module) else component.meta.get_submodule(node.path)

    def tensor_of(self, node: Node) -> torch.Tensor | None:
        """The parameter, buffer or constant on the meta device that a node reads; None if it reads none."""
        if node.call != "attribute" or not node.path or node.component not in self.components:
            return None
        extra = self.components[node.component].extras.get(node.path)
        if isinstance(extra, torch.Tensor):
            return extra
        holder, _, leaf = node.path.rpartition(".")
        found: torch.Tensor = getattr(self.components[node.component].meta.get_submodule(holder), leaf)
        return found

    def called_components(self) -> list[str]:
        """Components that a node still calls, in order."""
        called = {n.component for n in self.nodes.values() if n.component}
        return [c for c in self.components if c in called]

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelGraph:
        return self

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from graphmodel.graph.text import to_text

        printer.text("ModelGraph(...)" if cycle else to_text(self))

    def __str__(self) -> str:
        from graphmodel.graph.text import to_text

        return to_text(self)


def tensor_infos(info: Info) -> Iterator[TensorInfo]:
    """Every tensor of a node's result."""
    return (leaf for leaf in leaves(info) if isinstance(leaf, TensorInfo))


def trunk_path(spec: ModelSpec, name: str) -> str:
    """The path of a trunk from the module's root: `trunk` if it is the only one and has no other name."""
    return "trunk" if list(spec.trunks) == ["trunk"] else f"trunks.{name}"


def head_path(head: HeadSpec, position: int = 0) -> str:
    """The path of a head's module from the root: `heads.NAME`, or `heads.NAME.POSITION` in a chain of several."""
    return f"heads.{head.name}" + (f".{position}" if len(head.chain) > 1 else "")


def head_name(path: str) -> str:
    """The head that a module's path belongs to: `jigsaw` for `heads.jigsaw.1`."""
    return path.split(".")[1]


def path_inside(path: str, component: str) -> str:
    """A path from the module's root as a path inside of a component; empty for the component itself.

    >>> path_inside("trunk.layer1.0", "trunk"), path_inside("trunk", "trunk")
    ('layer1.0', '')
    """
    return path.removeprefix(component).removeprefix(".") if component else path
