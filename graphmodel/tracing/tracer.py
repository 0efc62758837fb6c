"""Traces a trunk with every module closed but those around a requested feature."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._C import _get_function_stack_at, _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

from graphmodel.components.features import INPUT_OF, FeatureError, run_plain
from graphmodel.components.structure import leaves, map_structure
from graphmodel.tracing.choices import note_origins, recorded_builtins
from graphmodel.tracing.errors import Failed, SizeDecision, TraceError
from graphmodel.tracing.image_sizes import Sample
from graphmodel.tracing.layout import (
    FeatureLayout,
    FeatureRequest,
    convert_layout,
    infer_layout,
    is_sized_sequence,
    strip,
    symbolic_grid,
)
from graphmodel.tracing.meta_runs import MetaRuns, storages, version
from graphmodel.tracing.proxy import BUILTINS, FACTORIES, MetaProxy, differs_by_size, same_calls, unpacked
from graphmodel.tracing.sizes import AnySize
from graphmodel.tracing.states import recorded_states, refused_contexts, refused_modes, restored_draws
from graphmodel.tracing.trunk_tensors import ROOT, TrunkTensors, relative


class NeverCalled(TraceError):
    """A tapped module that the trunk does not call."""


class TracedRoot(nn.Module):
    """The traced function: runs the trunk, then makes every feature of what was tapped on the way."""

    def __init__(self, trunk: nn.Module, requests: Sequence[FeatureRequest], tracer: StageTracer) -> None:
        super().__init__()
        self.trunk = trunk
        self._requests, self._tracer = tuple(requests), [tracer]

    def forward(self, x: Any, **extras: Any) -> dict[str, Any]:
        """Every requested feature by name."""
        tracer = self._tracer[0]
        features = list(dict.fromkeys(r.feature for r in self._requests))
        runner = next((f.runner for f in features if f.runner is not None), run_plain)
        size = tuple(x.values[0].shape[2:]) if x.ndim in (4, 5) else None
        out: dict[str, Any] = {}
        with tracer.factories():
            values = runner(self.trunk, features, x, extras, tracer)
            for request in self._requests:
                value = values[request.feature.name]
                node = getattr(value, "node", None)
                have = tracer.known_layouts.get(node) or infer_layout(value, request.feature, self.trunk, size)
                grid = None
                if request.layout in ("nchw", "nhwc") and is_sized_sequence(value, have):
                    if node in tracer.maps and request.tokens in (None, "patch"):
                        value, have = tracer.maps[node], replace(have, layout="nchw", prefix=0, class_token=False)
                    else:
                        grid = symbolic_grid(value, have, x)
                try:
                    out[request.name], tracer.layouts[request.name] = convert_layout(value, have, request, grid)
                except FeatureError as error:
                    error.name = request.name
                    raise
        return out


class StageTracer(fx.Tracer):
    """Records a trunk's calls; runners ask it for what the trunk's modules returned.

    Args:
        taps: paths of the tapped modules, relative to the trunk; None leaves the trunk closed as a whole.
        sample: for each placeholder, its meta value in each run; `x` is the main input.
        results: closed calls and what they returned, shared by traces of the same trunk.

    Attributes:
        layouts: how each requested feature is laid out.
        known_layouts: layouts of values that a library had reshaped.
        maps: the maps that a library made of values.
        decisions: what the trunk's code decided by the image size.
        texts: image sizes and tensors that the trunk's code wrote into a string, other than an assertion's message.
        tensors: the tensors that the trunk holds.
    """

    def __init__(self, taps: Sequence[str] | None, sample: Sample, results: dict[Hashable, Any]) -> None:
        super().__init__()
        self.sample, self.results = sample, results
        self.open_paths = set() if taps is None else {"", *(p for tap in taps for p in _ancestors(tap))}
        self.tapped_values: dict[str, list[Any]] = {}
        self.layouts: dict[str, FeatureLayout] = {}
        self.known_layouts: dict[fx.Node | None, FeatureLayout] = {}
        self.maps: dict[fx.Node | None, MetaProxy] = {}
        self.proxies: dict[str, Any] = {}
        self.decisions: list[SizeDecision] = []
        self.texts: list[tuple[str, TraceError]] = []

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self.tensors = TrunkTensors(root)
        self.runs = MetaRuns(root, self.tensors.by_path, self.sample, self.results, _unrecorded)
        self.owned = {id(module) for module in root.modules()}
        return super().trace(root, concrete_args)

    # -- what runners ask -------------------------------------------------------------------------------------------

    def tapped(self, path: str) -> Any:
        """The output of the module at `path`, or with the suffix `:input` what it was called with."""
        values = self.tapped_values.get(path, [])
        if not values and isinstance(module := self._trunk_module(path), nn.ModuleList) and len(module):
            return self.tapped(f"{path}.{len(module) - 1}")
        module_path = path.removesuffix(INPUT_OF)
        if not values:
            raise NeverCalled(f"the module `{module_path}` is never called on its own")
        if len(values) > 1:
            raise TraceError(f"the module `{module_path}` is called {len(values)} times, so it names no single feature")
        return values[0]

    def raw(self, value: Any) -> Any:
        """The trunk's own value behind a map that a library made of it."""
        if not isinstance(value, MetaProxy):
            return value
        found = strip(value, self.root.get_submodule(ROOT), self.results.setdefault("plain", {}))
        if found is None:
            return value
        self.known_layouts[found[0].node] = found[1]
        self.maps[found[0].node] = value
        return found[0]

    def same(self, value: Any, other: Any) -> bool:
        """Whether two values are made by the same calls of the same values."""
        return isinstance(value, MetaProxy) and isinstance(other, MetaProxy) and same_calls(value.node, other.node, {})

    def forget(self) -> None:
        """Starts over after a run that failed half-way."""
        self.tapped_values.clear()

    def _trunk_module(self, path: str) -> nn.Module | None:
        try:
            return self.root.get_submodule(f"{ROOT}.{path}" if path else ROOT)
        except AttributeError:
            return None

    # -- what fx asks -----------------------------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        # One placeholder for each input; fx would read their names off the signature, which has `**extras`.
        x, *extras = [self.create_proxy("placeholder", name, (), {}) for name in self.sample]
        names = list(self.sample)[1:]

        def call(root: nn.Module, *inputs: Any) -> Any:
            return root_fn(root, inputs[0], **dict(zip(names, inputs[1:], strict=True)))

        return call, [self.root, x, *extras]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return relative(module_qualified_name) not in self.open_paths

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.runs.active or not self.has_name(m):  # a slice of a container is a module that nobody owns
            return forward(*args, **kwargs)
        path = relative(self.path_of_module(m))
        with restored_draws() if path not in self.open_paths else nullcontext():  # a closed module draws in every call
            out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, MetaProxy):
            out = unpacked(out)
        out = map_structure(_as_it_is_now, out)
        self.tapped_values.setdefault(path, []).append(out)
        self.tapped_values.setdefault(path + INPUT_OF, []).append(next(iter((*args, *kwargs.values())), None))
        return out

    def has_name(self, module: nn.Module) -> bool:
        """Whether the trunk owns the module."""
        return id(module) in self.owned

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Parameters and buffers of opened modules become proxies, so that arithmetic between them is traced too.
        if self.runs.active or not isinstance(attr_val, torch.Tensor):
            return attr_val
        path = self.tensors.path_of(attr_val)
        return attr_val if path is None else self._tensor_proxy(path)

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, torch.Tensor) or self.runs.active:
            return super().create_arg(a)
        path = self.tensors.path_of(a)
        if path is None:
            if a.is_meta:
                raise TraceError("a tensor is computed out of the tracer's sight")
            path = self.tensors.add_constant(a)
        return self._tensor_proxy(path).node

    def _tensor_proxy(self, path: str) -> Any:
        if path not in self.proxies:
            self.proxies[path] = self.create_proxy("get_attr", path, (), {})
        return self.proxies[path]

    def proxy(self, node: fx.Node) -> MetaProxy:
        return MetaProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return MetaProxy.__bool__(obj)  # type: ignore[arg-type]

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return MetaProxy.__iter__(obj)  # type: ignore[arg-type]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        if self.runs.active:
            raise TraceError(f"a proxy reached the inside of a closed call ({target})")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        inputs = node.all_input_nodes
        before = [version(n.meta["values"][0]) for n in inputs]
        node.meta["values"] = values = self.runs.values(kind, target, args, kwargs)
        tensor = isinstance(values[0], torch.Tensor)
        node.meta["sized"] = not tensor and (differs_by_size(values) or any(n.meta["sized"] for n in inputs))
        note_origins(node)
        if target is torch._assert and len(values) > 2:
            self.check_assertion(node)
        node.meta["version"] = version(values[0])
        changed = [n for n, old in zip(inputs, before, strict=True) if version(n.meta["values"][0]) != old]
        node.meta["mutates"] = self.aliases(changed, node) if changed else []
        return proxy

    def aliases(self, changed: Sequence[fx.Node], changer: fx.Node) -> list[fx.Node]:
        """Every earlier value that shares memory with one that was changed in place: views, and what they are of."""
        memory = {memory for node in changed for memory in storages(node.meta["values"][0])}
        return [n for n in self.graph.nodes if n is not changer and storages(n.meta.get("values", (None,))[0]) & memory]

    def raise_decision(self) -> None:
        """Raises the first decision that a function made by the image size, even if the trunk's code caught it."""
        for found in self.decisions:
            if found.function is not None:
                raise found

    def check_assertion(self, node: fx.Node) -> None:
        """Keeps a library's assertion about the image size; it must hold at the other size for the graph to follow."""
        values = node.meta["values"]
        message = str(node.args[1] if len(node.args) > 1 else node.kwargs.get("message", ""))
        for written in list(self.texts):
            if written[0] in message:
                message = message.replace(written[0], "", 1)
                self.texts.remove(written)
        if isinstance(values[2], Failed):
            raise SizeDecision(values[2].reason)
        node.meta["asserts"] = any(n.meta["sized"] for n in node.all_input_nodes)

    def call_function(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Records a function as one call, if a proxy is among its arguments."""
        if self.runs.active or not any(isinstance(x, fx.Proxy) for x in leaves((args, kwargs))):
            return function(*args, **kwargs)
        return unpacked(self.create_proxy("call_function", function, args, kwargs))

    @contextmanager
    def factories(self) -> Iterator[None]:
        """Inside, tensor factories and functions that take no proxies are recorded as calls."""
        with (
            _Factories(self),
            recorded_builtins(self.record),
            recorded_states(self.record, self.root, BUILTINS),
            refused_contexts(lambda: self.runs.active, TraceError),
            refused_modes(lambda: self.runs.active, TraceError),
            self._recorded_tensors(),
        ):
            yield

    @contextmanager
    def _recorded_tensors(self) -> Iterator[None]:
        """Inside, `module.parameters()`, `buffers()` and `torch.Size` give and take proxies."""
        members = nn.Module._named_members

        def named_members(module: nn.Module, *args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
            for name, tensor in members(module, *args, **options):
                yield name, self.getattr(name, tensor, {})

        size = torch.Size
        nn.Module._named_members, torch.Size = named_members, AnySize  # type: ignore[method-assign,misc,assignment]
        try:
            yield
        finally:
            nn.Module._named_members, torch.Size = members, size  # type: ignore[method-assign,misc]

    def record(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Records a function that replaces another one, unless a closed module calls it."""
        if self.runs.active:
            return function(*args)
        return self.create_proxy("call_function", function, args, {})


class _Factories(TorchFunctionMode):
    """Records tensor factories as calls, so that no constant made on the meta device ends up in the graph."""

    def __init__(self, tracer: StageTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES and not self.tracer.runs.active:
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Inside, functions do not pass `_Factories`, which would look at every one of a closed call."""
    depth = _len_torch_function_stack()
    if depth and isinstance(_get_function_stack_at(depth - 1), _Factories):
        with _pop_mode_temporarily():
            yield
    else:
        yield


def _as_it_is_now(value: Any) -> Any:
    """A value that was changed in place after the call that made it, as a call after the last of these changes."""
    if not isinstance(value, MetaProxy) or not isinstance(value.values[0], torch.Tensor):
        return value
    return value if version(value.values[0]) == value.node.meta["version"] else value[...]


def _ancestors(path: str) -> list[str]:
    """Paths of the modules around a module, the root left out.

    >>> _ancestors("layer1.0.conv")
    ['layer1', 'layer1.0']
    """
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
