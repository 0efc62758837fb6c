"""`graphmodel.torch_compile`: compiles repeated stages once, with one graph for all batch sizes."""

from __future__ import annotations

import itertools
import threading
import types
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import fx, nn
from torch._dynamo.callback import callback_handler
from torch.fx.passes.split_module import split_module

from graphmodel.components.hooks import has_hooks
from graphmodel.components.structure import children
from graphmodel.lower.containers import Container

Module = TypeVar("Module", bound=nn.Module)

SHAPES = 4
"""Sample shapes for which a region gets a graph of its own; further ones share graphs with dynamic sizes."""


@dataclass
class Region:
    """A piece of a module that is compiled once.

    Attributes:
        modules: names of the modules that share its code; one entry, in angle brackets, for a stretch of the graph.
        graphs: how many graphs were compiled so far: one per mode and sample shape.
        seconds: wall-clock time spent on that, of the backward graphs too.
    """

    modules: list[str]
    graphs: int = 0
    seconds: float = 0.0
    _functions: dict[Hashable, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Region:
        return Region(list(self.modules), self.graphs, self.seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        return Region, (list(self.modules), self.graphs, self.seconds)


@dataclass
class CompileReport:
    """What was compiled and how long that took; it grows while the module is called.

    Attributes:
        regions: the pieces that are compiled.
    """

    regions: list[Region]

    @property
    def graphs(self) -> int:
        """How many graphs were compiled so far."""
        return sum(region.graphs for region in self.regions)

    @property
    def seconds(self) -> float:
        """The cold compile time so far, in seconds of wall-clock time."""
        return sum(region.seconds for region in self.regions)

    def __str__(self) -> str:
        lines = [f"{self.graphs} graphs of {len(self.regions)} regions compiled in {self.seconds:.1f} s"]
        for region in self.regions:
            first, more = region.modules[0], len(region.modules) - 1
            name = f"{first} and {more} more" if more else first
            lines.append(f"  {name}: {region.graphs} graphs, {region.seconds:.1f} s")
        return "\n".join(lines)


def torch_compile(
    module: Module,
    *,
    regional: bool = True,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    fullgraph: bool = True,
) -> Module:
    """Compiles a module in place with `torch.compile`, each repeated stage once and for every batch size.

    A ViT of 12 blocks, a ResNet or a ConvNeXt repeats a few structures many times. Each structure becomes one region
    that all its instances share, which takes a fraction of the time of compiling the whole graph; the stretches of the
    graph between them are regions too. Every region has one graph per mode (training, eval) and per sample shape,
    whatever the batch size: the batch dimension of its arguments is marked. Compilation happens on the first call.

    A batch of one sample has a graph of its own, since torch treats dimensions of size 1 as constants. Plain
    `torch.compile` makes more: one for the first batch size, one for the others, and on one CPU thread a further one
    wherever a convolution gets 16 rows or more.

    Numbers and gradients are those of `torch.compile`. The module stays the same object with the same state-dict keys.
    Copies, slices and saved artifacts of it are not compiled.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.torch_compile(graphmodel.compile(spec, seed=0).eval(), backend="eager")
        >>> for batch in (2, 3, 8):
        ...     y = model(torch.randn(batch, 3, 64, 64))
        >>> model.compile_report.graphs == len(model.compile_report.regions)
        True

    Args:
        module: a compiled model; of any other module only the repeated stages are compiled.
        regional: whether to compile repeated stages once; if not, the whole module is one region.
        backend: as in `torch.compile`.
        mode: as in `torch.compile`.
        options: as in `torch.compile`.
        fullgraph: as in `torch.compile`; a graph break in a region is an error by default.

    Returns:
        The module itself. Its attribute `compile_report` holds the regions, the number of graphs and the cold compile
        time.
    """
    compiler = _Compiler({"backend": backend, "mode": mode, "options": options, "fullgraph": fullgraph})
    if regional:
        compiler.compile_repeated(module)
        if isinstance(module, fx.GraphModule):
            compiler.compile_stretches(module)
    else:
        compiler.install(module, compiler.region(["<whole module>"]))
    module.compile_report = CompileReport(compiler.regions)  # type: ignore[assignment]
    return module


class _Compiler:
    """Makes the regions of one module.

    Args:
        options: arguments of `torch.compile`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.regions: list[Region] = []
        self.covered: set[str] = set()

    def region(self, modules: list[str]) -> Region:
        self.regions.append(Region(modules))
        return self.regions[-1]

    def install(self, module: nn.Module, region: Region) -> None:
        """Calls of the module go through the region's compiled code."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(region, module, args, kwargs)

        module._compiled_call_impl = call

    def run(self, region: Region, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a module through a region: the code for its arguments' sample shapes."""
        if torch.compiler.is_compiling():
            return _call_impl(module, *args, **kwargs)
        shapes = _mark_batches(args), _mark_batches(tuple(kwargs.values()))
        function = region._functions.get(shapes)
        if function is None:
            key = shapes if len(region._functions) < SHAPES else "any"
            function = region._functions.get(key) or torch.compile(_own_code(_call_module), **self.options)
            region._functions[key] = function
        with _timed(region):
            return function(module, args, kwargs)

    def compile_repeated(self, root: nn.Module) -> None:
        """One region for each structure that occurs more than once, and for other instances of the same class."""
        candidates = {
            name: part for name, part in root.named_modules() if name and _is_stage(part) and not _in_heads(name)
        }
        keys = {name: structure_of(part) for name, part in candidates.items()}
        occurrences = Counter(keys.values())
        repeated = {type(part) for name, part in candidates.items() if occurrences[keys[name]] > 1}
        regions: dict[Hashable, Region] = {}
        for name, part in candidates.items():
            if type(part) not in repeated or any(name.startswith(f"{other}.") for other in self.covered):
                continue
            self.covered.add(name)
            if keys[name] not in regions:
                regions[keys[name]] = self.region([])
            regions[keys[name]].modules.append(name)
            self.install(part, regions[keys[name]])

    def compile_stretches(self, module: fx.GraphModule) -> None:
        """One region for each stretch of the graph between calls of stages that hold regions.

        They are made again if the module was edited since, or something else took the place of what its code names.
        """
        before = len(self.regions)
        number, inside, group = 0, False, {}
        for node in module.graph.nodes:
            if node.op in ("placeholder", "output", "get_attr"):
                continue
            holds = node.op == "call_module" and any(f"{name}.".startswith(f"{node.target}.") for name in self.covered)
            if holds != inside:
                number, inside = number + 1, holds
            group[node.name] = (number, holds)
        holder = nn.Module()
        holder._modules = module._modules
        graph = fx.Graph()
        graph.output(graph.graph_copy(module.graph, {}))
        split = split_module(
            fx.GraphModule(holder, graph), holder, lambda node: group[node.name][0], keep_original_order=True
        )
        stages = {f"submod_{number}" for number, holds in group.values() if holds}
        for name, part in split.named_children():
            if name not in stages and name.startswith("submod_"):
                self.install(part, self.region([_stretch_name(part)]))

        code, held = module._code, _held(module)
        own = {id(region) for region in self.regions[before:]}

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or has_hooks(module):
                return _call_impl(module, *args, **kwargs)
            # A list is gone through in half the time of a generator, and this runs at each call.
            if module._code is not code or not all([holder.get(name) is part for holder, name, part in held]):  # noqa: C419
                self.regions[:] = [region for region in self.regions if id(region) not in own]
                self.compile_stretches(module)
                return module._compiled_call_impl(*args, **kwargs)  # type: ignore[misc]
            return split.forward(*args, **kwargs)

        module._compiled_call_impl = call


def _held(module: fx.GraphModule) -> list[tuple[dict[str, Any], str, Any]]:
    """What the code of a module names, and the modules around it: the dict that holds it, its name there, and it."""
    found: dict[str, tuple[dict[str, Any], str, Any]] = {}
    for node in module.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        part: Any = module
        path = ""
        for name in str(node.target).split("."):
            path = f"{path}.{name}"
            holder = next((h for h in (part._modules, part._parameters, part._buffers) if name in h), part.__dict__)
            part = holder.get(name)
            found[path] = (holder, name, part)
            if not isinstance(part, nn.Module):
                break
    return list(found.values())


def structure_of(module: nn.Module) -> Hashable:
    """What two modules have in common if one compiled function can serve both: classes, settings, shapes.

    It only decides what is tried together: torch's guards check every call.

    Example:
        >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 3)), structure_of(nn.Linear(2, 4)) == ()
        (True, False)
    """
    return tuple(
        (path, type(part), _settings(part), _tensors(part._parameters), _tensors(part._buffers))
        for path, part in module.named_modules()
    )


def _settings(part: nn.Module) -> tuple[Any, ...]:
    plain = (int, float, str, bool, type(None), torch.Size, torch.dtype, types.FunctionType)
    return tuple(
        (key, value)
        for key, value in sorted(part.__dict__.items())
        if not key.startswith("_") and key != "training" and (isinstance(value, plain) or _is_plain_tuple(value, plain))
    )


def _is_plain_tuple(value: Any, plain: tuple[type, ...]) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, plain) for item in value)


def _tensors(held: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((k, None if v is None else (v.shape, v.dtype, v.requires_grad)) for k, v in held.items())


def _is_stage(part: nn.Module) -> bool:
    """Whether a module is worth a region of its own: it does something, with several layers that have parameters."""
    containers = (nn.ModuleList, nn.ModuleDict, nn.Sequential, Container, fx.GraphModule)
    layers = sum(1 for inner in part.modules() if inner._parameters)
    return not isinstance(part, containers) and layers > 2


def _in_heads(name: str) -> bool:
    """Heads are small: calling many of them one by one costs more than compiling them together."""
    return name.split(".", 1)[0] == "heads"


def _stretch_name(part: nn.Module) -> str:
    nodes = [n for n in part.graph.nodes if n.op not in ("placeholder", "output")]  # type: ignore[union-attr]
    return f"<{nodes[0].name} to {nodes[-1].name}>"


def _mark_batches(value: Any) -> Hashable:
    """Marks the first dimension of every tensor as free; returns the rest of the shapes."""
    if isinstance(value, torch.Tensor):
        if value.ndim and not value.is_nested:
            torch._dynamo.maybe_mark_dynamic(value, 0)
        return value.shape[1:], value.dtype
    items = children(value)
    return None if items is None else tuple([_mark_batches(item) for _, item in items])


_call_impl: Callable[..., Any] = nn.Module._call_impl
"""`nn.Module.__call__` of a module that is not compiled."""


def _call_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _call_impl(module, *args, **kwargs)


_numbers = itertools.count()


def _own_code(function: Any) -> Callable[..., Any]:
    """The function with a code object and name of its own: Dynamo keeps graphs, limits and size history per code."""
    name = f"region_{next(_numbers)}"
    return types.FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)


# -- time ------------------------------------------------------------------------------------------------------------

_now = threading.local()
_owners: WeakValueDictionary[str, Region] = WeakValueDictionary()
_started: list[float] = []


@contextmanager
def _timed(region: Region) -> Iterator[None]:
    """Graphs that are compiled inside are the region's."""
    if _start not in callback_handler.start_callbacks:  # `torch._dynamo.reset` removes them
        callback_handler.register_start_callback(_start)
        callback_handler.register_end_callback(_end)
    outer = getattr(_now, "region", None)
    _now.region = region
    try:
        yield
    finally:
        _now.region = outer


def _start(args: Any = None) -> None:
    _started.append(perf_counter())
    region = getattr(_now, "region", None)
    if region is None:
        return
    if args is not None:  # torch 2.6 passes none
        _owners[str(args.compile_id)] = region
    torch._C._select_conv_backend = _select_conv_backend


@contextmanager
def kernels_without_guards() -> Iterator[None]:
    """Inside, a program that torch compiles is not limited to the batch sizes of one kernel of convolutions."""
    before = torch._C._select_conv_backend
    torch._C._select_conv_backend = _select_conv_backend
    try:
        yield
    finally:
        torch._C._select_conv_backend = before


def _end(args: Any = None) -> None:
    torch._C._select_conv_backend = _torch_select_conv_backend
    seconds = perf_counter() - _started.pop() if _started else 0.0
    region = getattr(_now, "region", None)
    if region is not None:
        region.graphs += 1
    elif args is not None:  # a backward graph, compiled when it is first needed
        region = _owners.get(str(args.compile_id))
    if region is not None:
        region.seconds += seconds


_torch_select_conv_backend = torch._C._select_conv_backend


def _select_conv_backend(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """torch's choice of a kernel while a region is traced, without the guard on the batch size that it leaves.

    On one CPU thread torch prefers another kernel from 16 rows on. Tracing asks only for the memory format of the
    result, which is the same for both, yet two graphs would be kept: one for each side of 16.
    """
    shape_env = getattr(getattr(input, "fake_mode", None), "shape_env", None)
    if shape_env is None or input.device.type != "cpu":
        return _torch_select_conv_backend(input, *args, **kwargs)
    with shape_env.suppress_guards():
        return _torch_select_conv_backend(input, *args, **kwargs)
