"""Writes nodes while running every call on the meta device for two batch sizes, which gives symbolic shapes."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, get_args

import torch
from torch import fx, nn

from graphmodel.components.structure import leaves, map_structure, map_structures
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.diagnostics import Span
from graphmodel.graph.facts import NO_FACTS, Facts
from graphmodel.graph.text import info_text
from graphmodel.graph.types import FX_OPS, Info, Kind, Node, Ref
from graphmodel.spec.model import Dtype
from graphmodel.tracing.traced import TracedTrunk

DTYPES = {name: getattr(torch, name) for name in get_args(Dtype)}
"""The dtypes that an input may have, by the name that specs use."""

BUILTIN_NAMES = frozenset(
    {
        "torch",
        "self",
        "device",
        "inf",
        "nan",
        "NoneType",
        "operator",
        "getattr",
        "input",
        "output",
        "trunk",
        "trunks",
        "heads",
    }
)


@dataclass(frozen=True)
class Value:
    """A node's result: its name, its meta values for both batch sizes, its description."""

    node: str
    pair: tuple[Any, Any]
    info: Info

    @property
    def text(self) -> str:
        return info_text(self.info)


def version(value: Value) -> tuple[int, ...]:
    """In-place change counters of a value's tensors."""
    return tuple(t._version for t in leaves(value.pair[0]) if isinstance(t, torch.Tensor))


class GraphWriter:
    """Collects nodes in execution order, by name.

    Args:
        batches: the two batch sizes that every call runs with.
        inputs: names of the model's inputs, which nodes may not take.
    """

    def __init__(self, batches: tuple[int, int], inputs: Sequence[str]) -> None:
        self.batches = batches
        self.nodes: dict[str, Node] = {}
        self.taken: set[str] = set(inputs) | BUILTIN_NAMES

    def unique(self, name: str) -> str:
        """`name` as an identifier that no node has yet."""
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "value"
        if base[0].isdigit() or keyword.iskeyword(base):
            base = f"_{base}"
        candidate, number = base, 1
        while candidate in self.taken:
            candidate, number = f"{base}_{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def info(self, pair: tuple[Any, Any]) -> Info:
        """The description of a pair of meta values."""
        return map_structures(self._leaf, *pair)

    def _leaf(self, first: Any, second: Any) -> TensorInfo | None:
        if not isinstance(first, torch.Tensor):
            return None
        shape = tuple(self.dim(a, b) for a, b in zip(first.shape, second.shape, strict=True))
        return TensorInfo(shape, str(first.dtype).removeprefix("torch."))

    def dim(self, first: int, second: int) -> int | Batch:
        if first == second:
            return int(first)
        low, high = self.batches
        scale = Fraction(second - first, high - low)
        return Batch(scale, int(first - scale * low))

    # -- calls --------------------------------------------------------------------------------------------------------

    def add(self, node: Node, pair: tuple[Any, Any]) -> Value:
        info = self.info(pair)
        self.nodes[node.name] = replace(node, info=info)
        return Value(node.name, pair, info)

    def placeholder(self, name: str, shape: Sequence[int], dtype: torch.dtype, span: Span | None) -> Value:
        pair = self.sample(shape, dtype)
        return self.add(Node(name, "input", "placeholder", name, span=span), pair)

    def placeholder_list(
        self, name: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype, span: Span | None
    ) -> Value:
        pairs = [self.sample(shape, dtype) for shape in shapes]
        return self.add(
            Node(name, "input", "placeholder", name, span=span), ([p[0] for p in pairs], [p[1] for p in pairs])
        )

    def sample(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = (torch.empty((b, *shape), dtype=dtype, device="meta") for b in self.batches)
        return low, high

    def function(
        self,
        label: str,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        kind: Kind = "op",
        span: Span | None = None,
        facts: Facts = NO_FACTS,
    ) -> Value:
        """A call of a function; `Value`s among the arguments become references."""
        kwargs = dict(kwargs or {})
        with torch.no_grad():
            low, high = (target(*_at(args, i), **_at(kwargs, i)) for i in (0, 1))
        node = Node(
            self.unique(name or label),
            kind,
            "function",
            target,
            _refs(args),
            _refs(kwargs),
            span=span,
            facts=facts,
        )
        return self.add(node, (low, high))

    def method(self, target: str, args: tuple[Any, ...]) -> Value:
        """A call of a tensor's method."""
        with torch.no_grad():
            low, high = (getattr(a[0], target)(*a[1:]) for a in (_at(args, 0), _at(args, 1)))
        return self.add(Node(self.unique(target), "op", "method", target, _refs(args)), (low, high))

    def module(self, label: str, module: nn.Module, target: str, value: Value, span: Span | None) -> Value:
        """A call of a head's module."""
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), torch.device("meta"):
                low, high = module(value.pair[0]), module(value.pair[1])
        finally:
            module.train(training)
        node = Node(self.unique(label), "head", "module", target, (Ref(value.node),), component=target, span=span)
        return self.add(node, (low, high))

    def protect_last(self, value: Value) -> Value:
        """Lets the last call read a copy of `value`, which it changes in place."""
        _, last = self.nodes.popitem()
        copy = self.function(
            "clone", torch.clone, (value,), name=f"{value.node}_copy", facts=Facts(copied="changed in place")
        )
        self.nodes[last.name] = last.reading({value.node: copy.node})
        return Value(last.name, copy.pair, last.info)

    def mark_in_place(self, graph: fx.Graph, names: Mapping[fx.Node, str]) -> None:
        """Marks values that a call changes in place and that are read afterwards: their readers keep their order."""
        order = _position(graph)
        for changer in graph.nodes:
            aliases = changer.meta.get("mutates", ())  # of one memory: a change of a view is one of the whole
            if not any(order[user] > order[changer] for changed in aliases for user in changed.users):
                continue
            for changed in aliases:
                for reader in (changed, *changed.users):
                    at = names[reader]
                    self.nodes[at] = self.nodes[at].with_facts(in_place=True)
                at = names[changed]
                by = (*self.nodes[at].facts.changed_by, names[changer])
                self.nodes[at] = self.nodes[at].with_facts(changed_by=by)

    def mark_features(self, names: Mapping[str, str]) -> None:
        """Records on each node the names of the features that it is, for display and explanation."""
        for feature, name in names.items():
            node = self.nodes[name]
            self.nodes[name] = node.with_facts(features=(*node.facts.features, feature))

    def embed(
        self,
        opened: TracedTrunk,
        inputs: Mapping[str, Value],
        component: str,
        prefix: str,
        scope: str,
        span: Span | None,
        facts: Facts,
    ) -> dict[str, Value]:
        """Copies a traced trunk's calls into the graph; returns the value of each feature."""
        values: dict[fx.Node, Any] = {}
        calls = {op: call for call, op in FX_OPS.items()}
        for node in opened.graph.nodes:
            if node.op == "placeholder":
                values[node] = inputs[node.meta["input"]]
                continue
            owned = node.op in ("call_module", "get_attr")
            label = str(node.target).replace(".", "_") if owned else node.name.removeprefix("trunk_")
            label = label or component.replace(".", "_")  # a trunk that is called as a whole
            made = Node(
                self.unique(f"{prefix}{label}"),
                "trunk",
                calls[node.op],
                f"{component}.{node.target}".removesuffix(".") if owned else node.target,
                _refs(map_structure(lambda leaf: values[leaf] if isinstance(leaf, fx.Node) else leaf, node.args)),
                _refs(map_structure(lambda leaf: values[leaf] if isinstance(leaf, fx.Node) else leaf, node.kwargs)),
                component=component if owned else "",
                span=span,
                scope=scope,
                facts=facts if node.op == "call_module" else NO_FACTS,
            )
            values[node] = self.add(made, node.meta["values"])
        self.mark_in_place(opened.graph, {n: v.node for n, v in values.items()})
        self.mark_features({name: values[node].node for name, node in opened.features.items()})
        return {name: values[node] for name, node in opened.features.items()}


def _position(graph: fx.Graph) -> dict[fx.Node, int]:
    return {node: i for i, node in enumerate(graph.nodes)}


def _at(value: Any, which: int) -> Any:
    """Arguments with the meta values of one batch size."""
    return map_structure(lambda leaf: leaf.pair[which] if isinstance(leaf, Value) else leaf, value)


def _refs(value: Any) -> Any:
    """Arguments with references to nodes."""
    return map_structure(lambda leaf: Ref(leaf.node) if isinstance(leaf, Value) else leaf, value)
