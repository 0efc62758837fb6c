"""Opens a trunk only as far as its requested features need, carrying meta tensors beside the proxies.

The tracer leaves every module closed that holds no requested feature, so the result has one call per stage. Each proxy
carries the values of two runs on the meta device, with different batch sizes: shapes are known, a dimension that
differs between the runs grows with the batch and stays symbolic, and control flow on anything else resolves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx._symbolic_trace import _orig_module_call
from torch.overrides import TorchFunctionMode

from graphmodel.components.features import INPUT_OF, Feature, FeatureError, run_plain
from graphmodel.tracing.both_modes import for_both_modes, with_dropout_modules
from graphmodel.tracing.layout import Arrangement, Wanted, arrange, infer, strip
from graphmodel.tracing.proxy import (
    FACTORIES,
    Failed,
    MetaProxy,
    TraceError,
    constant,
    failed_in,
    like,
    map_structure,
    same_calls,
    signature,
    tensors_in,
    unpacked,
    version,
)
from graphmodel.tracing.shape_only import ShapesOfNorms
from graphmodel.tracing.traced import ROOT, Opened, finish, relative

__all__ = ["FACTORIES", "Opened", "TraceError", "Wanted", "open_trunk"]

Pair = tuple[Any, Any]


def open_trunk(trunk: nn.Module, features: Sequence[Feature | Wanted], sample: Mapping[str, Pair]) -> Opened:
    """Traces `trunk` for `features`, in eval and in training mode, so that the result acts as the trunk in both.

    Args:
        trunk: the trunk on the meta device.
        features: what is wanted of it.
        sample: meta tensors of two batch sizes for each input; the first is the trunk's main input, the others go in
            by keyword.

    Returns:
        The calls that the features need, nothing else.

    Raises:
        TraceError: where the trunk's own code cannot be followed, or does things in training mode that no module can
            stand for.
        FeatureError: where a feature cannot be had in the layout that was asked for.
    """
    wanted = [f if isinstance(f, Wanted) else Wanted(f) for f in features]
    before = [(m, m.training) for m in trunk.modules()]
    try:
        return _in_both_modes(trunk, wanted, sample)
    except TraceError as error:
        if any(w.feature.taps or w.feature.runner is not None for w in wanted):
            raise
        # Nothing inside is wanted, so the trunk may stay closed as a whole: one call, its own code as it is.
        try:
            return _in_both_modes(trunk, wanted, sample, closed=True)
        except TraceError:
            raise error from None
    finally:
        for module, mode in before:
            module.training = mode


def _in_both_modes(
    trunk: nn.Module, wanted: Sequence[Wanted], sample: Mapping[str, Pair], closed: bool = False
) -> Opened:
    results: dict[Any, Any] = {}
    moving = _traced(trunk.train(), wanted, sample, results, closed)
    try:
        still = _traced(trunk.eval(), wanted, sample, results, closed)
    except NeverCalled:  # an auxiliary classifier is there in training alone
        return with_dropout_modules(moving, trunk)
    return for_both_modes(still, moving, trunk)


def _traced(
    trunk: nn.Module, wanted: Sequence[Wanted], sample: Mapping[str, Pair], results: dict[Any, Any], closed: bool
) -> Opened:
    """One trace, in the mode that the trunk is in."""
    names = list(sample)
    taps = [tap.removesuffix(INPUT_OF) for w in wanted for tap in w.feature.taps]
    tracer = StageTracer(taps, {"x": sample[names[0]], **{n: sample[n] for n in names[1:]}}, results, closed)
    root = type("_TracedRoot", (_Root,), {"forward": _forward_of(names[1:])})(trunk, wanted, tracer)
    tracer.name_tensors(root)
    try:
        graph = tracer.trace(root)
    except (TraceError, FeatureError):
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise TraceError(f"{type(error).__name__}: {text}") from error
    return finish(graph, names, tracer.arrangements, tracer.attributes)


class NeverCalled(TraceError):
    """A tapped module that the trunk does not call."""


class _Root(nn.Module):
    """The traced function: runs the trunk, then makes every feature of what was tapped on the way."""

    def __init__(self, trunk: nn.Module, wanted: Sequence[Wanted], tracer: StageTracer) -> None:
        super().__init__()
        self.trunk = trunk
        self._wanted, self._tracer = tuple(wanted), [tracer]

    def features_of(self, x: Any, extras: dict[str, Any]) -> dict[str, Any]:
        """Every wanted feature by name."""
        tracer = self._tracer[0]
        features = list(dict.fromkeys(w.feature for w in self._wanted))
        runner = next((f.runner for f in features if f.runner is not None), run_plain)
        size = tuple(x.shape[-2:]) if x.ndim == 4 else None
        out: dict[str, Any] = {}
        with tracer.factories():
            values = runner(self.trunk, features, x, extras, tracer)
            for wanted in self._wanted:
                value = values[wanted.feature.name]
                have = tracer.known.get(getattr(value, "node", None)) or infer(value, wanted.feature, self.trunk, size)
                try:
                    out[wanted.name], tracer.arrangements[wanted.name] = arrange(value, have, wanted)
                except FeatureError as error:
                    error.name = wanted.name
                    raise
        return out


def _forward_of(extras: Sequence[str]) -> Callable[..., Any]:
    """A forward with one named argument per input; fx makes placeholders of a function's own argument names."""
    names = ", ".join(["x", *extras])
    scope: dict[str, Any] = {}
    exec(
        f"def forward(self, {names}):\n    return self.features_of(x, dict({', '.join(f'{e}={e}' for e in extras)}))",
        scope,
    )
    forward: Callable[..., Any] = scope["forward"]
    return forward


class StageTracer(fx.Tracer):
    """Traces a trunk with every module closed but the root and the ancestors of tapped modules.

    Args:
        taps: paths of the tapped modules, relative to the trunk.
        sample: for each placeholder, its meta value in either run.
        results: closed calls and what they returned, shared by traces of the same trunk.
        closed: leave the trunk closed as a whole.
    """

    def __init__(
        self, taps: Sequence[str], sample: Mapping[str, Pair], results: dict[Any, Any], closed: bool = False
    ) -> None:
        super().__init__()
        self.sample, self.results = dict(sample), results
        self.open_paths = {""} | {
            ".".join(parts[:end]) for tap in taps for parts in [tap.split(".")] for end in range(1, len(parts))
        }
        if closed:
            self.open_paths = set()
        self.taps: dict[str, list[Any]] = {}
        self.running = False
        self.known: dict[fx.Node | None, Arrangement] = {}
        self.arrangements: dict[str, Arrangement] = {}
        self.attributes: dict[str, torch.Tensor] = {}
        self.proxies: dict[str, Any] = {}

    def name_tensors(self, root: nn.Module) -> None:
        """Learns the names of all tensors that the trunk holds, as parameters, buffers or plain attributes."""
        self.tensors: dict[str, torch.Tensor] = {}
        self.owned = {id(module) for module in root.modules()}
        for path, module in root.named_modules():
            plain = {k: v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
            for name, tensor in {**module._parameters, **module._buffers, **plain}.items():
                if tensor is not None:
                    self.tensors[f"{path}.{name}".removeprefix(".")] = tensor
            self.attributes |= {relative(f"{path}.{name}"): tensor for name, tensor in plain.items()}
        self.names = {id(tensor): name for name, tensor in reversed(self.tensors.items())}

    # -- what runners ask -------------------------------------------------------------------------------------------

    def tapped(self, path: str) -> Any:
        """The output of the module at `path`, or with the suffix `:input` what it was called with."""
        calls = self.taps.get(path, [])
        if not calls and isinstance(module := self.trunk_module(path), nn.ModuleList) and len(module):
            return self.tapped(f"{path}.{len(module) - 1}")
        module_path = path.removesuffix(INPUT_OF)
        if not calls:
            raise NeverCalled(f"the module `{module_path}` is never called on its own")
        if len(calls) > 1:
            raise TraceError(f"the module `{module_path}` is called {len(calls)} times, so it names no single feature")
        return calls[0]

    def raw(self, value: Any) -> Any:
        """The trunk's own value behind a map that a library made of it."""
        if not isinstance(value, MetaProxy):
            return value
        found = strip(value, self.root.get_submodule(ROOT), self.results.setdefault("plain", {}))
        if found is None:
            return value
        self.known[found[0].node] = found[1]
        return found[0]

    def same(self, value: Any, other: Any) -> bool:
        """Whether two values are made by the same calls of the same values."""
        return isinstance(value, MetaProxy) and isinstance(other, MetaProxy) and same_calls(value.node, other.node, {})

    def forget(self) -> None:
        """Starts over after a run that failed half-way."""
        self.taps.clear()

    def trunk_module(self, path: str) -> nn.Module | None:
        try:
            return self.root.get_submodule(f"{ROOT}.{path}" if path else ROOT)
        except AttributeError:
            return None

    # -- what fx asks -----------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return relative(module_qualified_name) not in self.open_paths

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.running or not self.has_name(m):  # a slice of a container is a module that nobody owns
            return forward(*args, **kwargs)
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, MetaProxy):
            out = unpacked(out)
        path = relative(self.path_of_module(m))
        self.taps.setdefault(path, []).append(out)
        self.taps.setdefault(path + INPUT_OF, []).append(next(iter((*args, *kwargs.values())), None))
        return out

    def has_name(self, module: nn.Module) -> bool:
        """Whether the trunk owns the module."""
        return id(module) in self.owned

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Parameters and buffers of opened modules become proxies, so that arithmetic between them is traced too.
        if self.running or not isinstance(attr_val, torch.Tensor):
            return attr_val
        name = self.names.get(id(attr_val))
        return attr_val if name is None else self.tensor_proxy(name)

    def tensor_proxy(self, name: str) -> Any:
        if name not in self.proxies:
            self.proxies[name] = self.create_proxy("get_attr", name, (), {})
        return self.proxies[name]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not self.running:
            name = self.names.get(id(a))
            if name is None:
                if a.is_meta:
                    raise TraceError("a tensor is computed where the tracer cannot see it")
                name = f"{ROOT}.constant_{sum(n.startswith('constant_') for n in self.attributes)}"
                self.attributes[relative(name)] = self.tensors[name] = a
                self.names[id(a)] = name
                setattr(self.root.get_submodule(ROOT), relative(name), a)
            return self.tensor_proxy(name).node
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> MetaProxy:
        return MetaProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(constant(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return MetaProxy.__iter__(obj)  # type: ignore[arg-type]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        if self.running:
            raise TraceError(f"a proxy reached the inside of a closed call ({target})")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        inputs = node.all_input_nodes
        before = [version(n.meta["values"][0]) for n in inputs]
        node.meta["values"] = (self.run(kind, target, args, kwargs, 0), self.run(kind, target, args, kwargs, 1))
        node.meta["version"] = version(node.meta["values"][0])
        node.meta["mutates"] = [n for n, old in zip(inputs, before, strict=True) if version(n.meta["values"][0]) != old]
        return proxy

    # -- running calls on meta --------------------------------------------------------------------------------------

    def run(self, kind: str, target: Any, args: Any, kwargs: Any, which: int) -> Any:
        """Runs one call on the meta values of run `which`."""

        def value(x: Any) -> Any:
            if isinstance(x, fx.Proxy):
                return x.node.meta["values"][which]
            return x.to("meta") if isinstance(x, torch.Tensor) else x

        args, kwargs = map_structure(args, value), map_structure(kwargs, value)
        if kind == "placeholder":
            return self.sample[str(target)][which] if str(target) in self.sample else None
        failed = failed_in((args, kwargs))
        if failed is not None:
            return failed
        self.running = True
        try:
            with torch.no_grad(), torch.device("meta"):
                if kind == "get_attr":
                    return self.tensors[target].to("meta")
                if kind == "call_module":
                    try:
                        return self.run_closed(target, args, kwargs)
                    except Exception as error:
                        return Failed(error)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs)
        finally:
            self.running = False

    def run_closed(self, target: str, args: Any, kwargs: Any) -> Any:
        """A closed module's result; calls that only compute are remembered by the shapes that they read."""
        key = (target, signature(args), signature(kwargs))
        if key in self.results:
            return map_structure(self.results[key], like)
        inputs = tensors_in((args, kwargs))
        before = [t._version for t in inputs]
        with ShapesOfNorms():
            result = _orig_module_call(self.root.get_submodule(target), *args, **kwargs)
        held = {t.untyped_storage()._cdata for t in inputs}
        fresh = not any(t.untyped_storage()._cdata in held for t in tensors_in(result))
        if fresh and before == [t._version for t in inputs]:
            self.results[key] = result
        return result

    @contextmanager
    def factories(self) -> Iterator[None]:
        with _Factories(self):
            yield


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
