"""Opens a trunk only as far as its requested features need, carrying meta tensors beside the proxies.

The tracer leaves every module closed that holds no requested feature, so the result has one call per stage. Each proxy
carries the values of two runs on the meta device, with different batch sizes: shapes are known, a dimension that
differs between the runs grows with the batch and stays symbolic, and control flow on anything else resolves.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx._symbolic_trace import _orig_module_call
from torch.overrides import TorchFunctionMode

from graphmodel.components.base import Feature

FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange zeros ones full empty linspace eye tensor rand randn logspace randint randperm tril_indices "
        "triu_indices zeros_like ones_like full_like empty_like"
    ).split()
)


class TraceError(Exception):
    """A trunk that this tracer cannot open; `str()` says what stood in the way."""


@dataclass
class Opened:
    """A traced trunk.

    Attributes:
        graph: the trunk's calls; targets are module paths relative to the trunk, dead calls removed.
        features: the node of each requested feature.
        inputs: placeholder names in order.
        flags: per node, what the tracer saw, in `node.meta`: `values` (a pair), `mutates` (nodes).
    """

    graph: fx.Graph
    features: dict[str, fx.Node]
    inputs: tuple[str, ...] = field(default=())


class MetaProxy(fx.Proxy):
    """A proxy that knows its value on the meta device for two batch sizes."""

    @property
    def values(self) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = self.node.meta["values"]
        return pair

    def constant(self) -> Any:
        """The value, where it is a number that does not depend on the batch.

        Raises:
            TraceError: where it does.
        """
        first, second = self.values
        if isinstance(first, torch.Tensor) or first != second:
            raise TraceError(f"control flow depends on the value of `{self.node.name}`, which changes with the batch")
        return first

    @property
    def shape(self) -> Any:
        return self.size()

    @property
    def ndim(self) -> int:
        return int(self.values[0].ndim)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        first, second = (v.shape for v in self.values)
        if dim is not None:
            return int(first[dim]) if first[dim] == second[dim] else self._size(dim)
        return tuple(int(a) if a == b else self._size(i) for i, (a, b) in enumerate(zip(first, second, strict=True)))

    def _size(self, dim: int) -> Any:
        return self.tracer.create_proxy("call_method", "size", (self, dim), {})

    def __len__(self) -> int:
        return len(self.values[0])

    def __iter__(self) -> Iterator[Any]:
        first = self.values[0]
        if isinstance(first, (torch.Tensor, list, tuple)):
            this: Any = self
            return iter([this[i] for i in range(len(first))])
        raise TraceError(f"iteration over `{self.node.name}`")

    def __index__(self) -> int:
        return int(self.constant())

    def __int__(self) -> int:
        return int(self.constant())

    def __float__(self) -> float:
        return float(self.constant())

    def __bool__(self) -> bool:
        return bool(self.constant())


class _Factories(TorchFunctionMode):
    """Records tensor factories as calls, so that no constant made on the meta device ends up in the graph."""

    def __init__(self, tracer: StageTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES and not self.tracer.running:
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        return func(*args, **kwargs)


class StageTracer(fx.Tracer):
    """Traces a trunk with every module closed but the root and the ancestors of tapped modules."""

    def __init__(self, taps: Sequence[str], sample: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.sample = dict(sample)
        self.open_paths = {""} | {
            ".".join(parts[:end]) for tap in taps for parts in [tap.split(".")] for end in range(1, len(parts))
        }
        self.taps: dict[str, list[Any]] = {}
        self.running = False
        self.parameters: dict[str, Any] = {}
        self.tensor_names: dict[str, torch.Tensor] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name.removeprefix("trunk").removeprefix(".") not in self.open_paths

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m).removeprefix("trunk").removeprefix(".")
        self.taps.setdefault(path, []).append(out)
        return out

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Parameters and buffers of opened modules become proxies, so that arithmetic between them is traced too.
        if self.running or not isinstance(attr_val, torch.Tensor):
            return attr_val
        for name, tensor in self.tensor_names.items():
            if tensor is attr_val:
                if name not in self.parameters:
                    self.parameters[name] = self.create_proxy("get_attr", name, (), {})
                return self.parameters[name]
        return attr_val

    def proxy(self, node: fx.Node) -> MetaProxy:
        return MetaProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return (
            bool(obj.node.meta["values"][0]) if obj.node.meta["values"][0] == obj.node.meta["values"][1] else _no(obj)
        )

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return MetaProxy.__iter__(obj)  # type: ignore[arg-type]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        if self.running:
            raise TraceError(f"a proxy reached the inside of a closed call ({target})")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        inputs = node.all_input_nodes
        before = [_version(n.meta["values"][0]) for n in inputs]
        node.meta["values"] = (self.run(kind, target, args, kwargs, 0), self.run(kind, target, args, kwargs, 1))
        node.meta["version"] = _version(node.meta["values"][0])
        node.meta["mutates"] = [
            n for n, old in zip(inputs, before, strict=True) if _version(n.meta["values"][0]) != old
        ]
        return proxy

    def run(self, kind: str, target: Any, args: Any, kwargs: Any, which: int) -> Any:
        """Runs one call on the meta values of run `which`."""

        def value(x: Any) -> Any:
            return x.node.meta["values"][which] if isinstance(x, fx.Proxy) else x

        args, kwargs = _map(args, value), _map(kwargs, value)
        if kind == "placeholder":
            return self.sample[str(target)][which] if str(target) in self.sample else None
        self.running = True
        try:
            with torch.no_grad(), torch.device("meta"):
                if kind == "get_attr":
                    return self.tensor_names[target]
                if kind == "call_module":
                    return _orig_module_call(self.root.get_submodule(target), *args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs)
        finally:
            self.running = False

    @contextmanager
    def factories(self) -> Iterator[None]:
        with _Factories(self):
            yield


def _no(obj: fx.Proxy) -> bool:
    raise TraceError(f"control flow depends on the value of `{obj.node.name}`, which changes with the batch")


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_map(v, function) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, builtins.slice):
        return builtins.slice(*(_map(v, function) for v in (value.start, value.stop, value.step)))
    return function(value)


def _version(value: Any) -> tuple[int, ...]:
    if isinstance(value, torch.Tensor):
        return (value._version,)
    if isinstance(value, (list, tuple)):
        return tuple(v for item in value for v in _version(item))
    if isinstance(value, dict):
        return tuple(v for item in value.values() for v in _version(item))
    return ()


class _Root(nn.Module):
    """The traced function: runs the trunk, then makes every feature of what was tapped on the way."""

    def __init__(
        self, trunk: nn.Module, features: Sequence[Feature], tracer: StageTracer, extras: Sequence[str]
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self._wanted, self._tracer, self._extras = tuple(features), [tracer], tuple(extras)


def _forward_of(extras: Sequence[str]) -> Callable[..., Any]:
    """A forward with one named argument per input; fx makes placeholders of a function's own argument names."""
    names = ", ".join(["x", *extras])
    scope: dict[str, Any] = {"finish": _finish}
    exec(
        f"def forward(self, {names}):\n    return finish(self, x, dict({', '.join(f'{e}={e}' for e in extras)}))", scope
    )
    forward: Callable[..., Any] = scope["forward"]
    return forward


def _finish(root: _Root, x: Any, extras: dict[str, Any]) -> dict[str, Any]:
    tracer = root._tracer[0]
    with tracer.factories():
        whole = root.trunk(x, **extras)
        # Every tap is looked up before anything is computed: a feature may call the trunk's modules once more.
        tapped = [[_tapped(tracer, f, path) for path in f.taps] or [whole] for f in root._wanted]
        out: dict[str, Any] = {}
        for feature, values in zip(root._wanted, tapped, strict=True):
            out[feature.name] = values[0] if feature.compute is None else feature.compute(root.trunk, *values)
        return out


def _tapped(tracer: StageTracer, feature: Feature, path: str) -> Any:
    calls = tracer.taps.get(path, [])
    if not calls:
        raise TraceError(f"the module `{path}` of the feature `{feature.name}` is never called on its own")
    if len(calls) > 1:
        raise TraceError(f"the module `{path}` is called {len(calls)} times, so it names no single feature")
    return calls[0]


def open_trunk(
    trunk: nn.Module,
    features: Sequence[Feature],
    sample: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> Opened:
    """Traces `trunk` for `features`.

    Args:
        trunk: the trunk on the meta device.
        features: what is wanted of it.
        sample: meta tensors of two batch sizes for each input; the first is the trunk's main input, the others go in
            by keyword.

    Returns:
        The calls that the features need, nothing else.

    Raises:
        TraceError: where the trunk's own code cannot be followed.
    """
    names = list(sample)
    tracer = StageTracer(
        [tap for f in features for tap in f.taps], {"x": sample[names[0]], **{n: sample[n] for n in names[1:]}}
    )
    root = type("_TracedRoot", (_Root,), {"forward": _forward_of(names[1:])})(trunk, features, tracer, names[1:])
    tracer.tensor_names = {
        name: tensor for part in (root.named_parameters(), root.named_buffers()) for name, tensor in part
    }
    training = [m for m in trunk.modules() if m.training]
    trunk.eval()
    try:
        graph = tracer.trace(root)
    except TraceError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise TraceError(f"{type(error).__name__}: {text}") from error
    finally:
        for module in training:
            module.training = True
    return _finished(graph, names)


def _finished(graph: fx.Graph, names: Sequence[str]) -> Opened:
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    wanted: dict[str, Any] = dict(output.args[0])
    for name, node in wanted.items():
        if not isinstance(node, fx.Node):
            raise TraceError(f"the feature `{name}` is not a tensor of the traced trunk")
    graph.erase_node(output)
    wanted = {name: _protected(graph, node) for name, node in wanted.items()}
    alive = _alive(graph, list(wanted.values()))
    for node in reversed(list(graph.nodes)):
        if node not in alive and node.op != "placeholder":
            graph.erase_node(node)
    for node in graph.nodes:
        if isinstance(node.target, str) and node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("trunk.")
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node, name in zip(placeholders, names, strict=True):
        node.meta["input"] = name
    return Opened(graph, wanted, tuple(names))


def _protected(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The node, or a copy of its value taken at once where a later call changes it in place."""
    value = node.meta["values"][0]
    if not isinstance(value, torch.Tensor) or _version(value) == node.meta["version"]:
        return node
    with graph.inserting_after(node):
        copy = graph.call_function(torch.clone, (node,))
    copy.meta.update(values=node.meta["values"], version=_version(value), mutates=[])
    return copy


def _alive(graph: fx.Graph, wanted: Sequence[fx.Node]) -> set[fx.Node]:
    """What the wanted nodes need, calls that change a needed value in place included."""
    alive: set[fx.Node] = set()
    pending = list(wanted)
    order = {n: i for i, n in enumerate(graph.nodes)}
    last = max(order[n] for n in wanted)
    while pending:
        node = pending.pop()
        if node in alive:
            continue
        alive.add(node)
        pending += node.all_input_nodes
        pending += [
            user
            for user in node.users
            if node in user.meta.get("mutates", ()) and order[user] <= last and user not in alive
        ]
    return alive
