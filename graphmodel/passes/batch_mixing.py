"""Tells which calls compute each sample of a batch on its own, by following samples through them on the meta device.

Nothing is assumed about a module: it runs without weights, and each operation in it says which samples its result
depends on (`sample_ops`). What cannot be followed mixes the batch, unless its type was registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from graphmodel.components.structure import leaves, map_structure
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import first_line
from graphmodel.graph.evaluate import evaluate
from graphmodel.graph.types import Info, ModelGraph, Node
from graphmodel.passes.purity import as_in_training
from graphmodel.passes.sample_ops import SIZED, Mixed, Owners, along, compact, owners_of_results, spread, tensors_in

_registered: dict[type[nn.Module], bool] = {}
_BATCHES = (5, 8, 1)
"""Two batch sizes that tell what depends on the size, and one for code that drops dimensions of one element."""
_MOVES = frozenset("clone view _unsafe_view alias detach contiguous".split())


def register_per_sample(*types: type[nn.Module], per_sample: bool = True) -> None:
    """Declares how modules treat the samples of a batch, for code that the compiler cannot follow.

    Modules whose operations are known need no registration. One that calls other operations, such as an extension
    written in C++ or a `torch.autograd.Function`, is taken to mix the samples of a batch until it is registered.

    Args:
        *types: module classes; a subclass is not registered with its base class.
        per_sample: True if each row of the result, and its gradient, depends on the same row of every argument, in
            training and in eval mode, whatever the batch size, without random numbers and without changing buffers;
            False if not.

    Example:
        >>> import graphmodel
        >>> class Spectrum(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.fft.rfft2(x).abs()
        >>> graphmodel.register_per_sample(Spectrum)

    Raises:
        TypeError: if something is not a module class.
    """
    for each in types:
        if not (isinstance(each, type) and issubclass(each, nn.Module)):
            raise TypeError(f"`register_per_sample` takes classes of modules, not {each!r}")
        _registered[each] = per_sample


@dataclass
class Verdict:
    """What is known of one call.

    Attributes:
        reason: why the call mixes samples or may not run once for two batches; empty if it computes each on its own.
        rows: rows of its result for each row of the input if they can be divided by samples; 0 if no sample changes it,
            None if it cannot be divided.
        is_tensor: whether its result is a tensor.
        mutates: whether it changes a value in place that it reads.
    """

    reason: str = ""
    rows: int | None = None
    is_tensor: bool = True
    mutates: bool = False


def follow(graph: ModelGraph, nodes: Sequence[Node], inputs: Mapping[str, Info]) -> dict[str, Verdict]:
    """What each call does to the samples of a batch, in training and in eval mode.

    Args:
        graph: the graph.
        nodes: calls in order, such as those of a trunk pass.
        inputs: what values from outside are, by the name of their node; their first dimension is the batch.

    Returns:
        A verdict for each call, by its name.
    """
    verdicts = {node.name: Verdict() for node in nodes}
    in_eval = _Run(graph, nodes, inputs, False, verdicts)
    in_eval.run()
    in_training = _Run(graph, nodes, inputs, True, verdicts)
    if not in_training.does_as(in_eval):
        in_training.run()
    return verdicts


def mutates(graph: ModelGraph, node: Node) -> bool:
    """Whether a call changes in place what it reads; True if that is unknown."""
    inputs = {name: graph.nodes[name].info for name in node.refs()}
    return follow(graph, [node], inputs)[node.name].mutates


@dataclass
class _Run:
    """The calls in one mode, for each batch size."""

    graph: ModelGraph
    nodes: Sequence[Node]
    inputs: Mapping[str, Info]
    training: bool
    verdicts: dict[str, Verdict]
    steps: dict[str, list[_Step]] = field(default_factory=dict)

    def does_as(self, other: _Run) -> bool:
        """Whether this mode makes the very same operations as another."""
        values = self.values(_BATCHES[0])
        try:
            for node in self.nodes:
                if self.recorded(node, values, Verdict())[0] != other.steps.get(node.name):
                    return False
        except Exception:  # told in full by `run`
            return False
        return True

    def run(self) -> None:
        plain = [self.values(batch) for batch in _BATCHES]
        followed = self.values(_BATCHES[0])
        watch = _Follow(self.graph)
        for name in self.inputs:
            for tensor in tensors_in(followed[name]):
                number = torch.arange(float(_BATCHES[0])).reshape(-1, *[1] * (tensor.ndim - 1))
                watch.owners[tensor] = spread(number, tensor.shape)
        for node in self.nodes:
            verdict = self.verdicts[node.name]
            try:
                recorded = [self.recorded(node, values, verdict) for values in plain[:2]]
                steps = [step for step, _ in recorded]
                self.steps[node.name] = steps[0]
                watch.expect(_varying(steps))
                with self.calling(node), watch:
                    followed[node.name] = evaluate(self.graph, node, followed)
                if recorded[0][1]:
                    raise Mixed("changes its buffers or attributes")
                _varying([steps[0], self.recorded(node, plain[2], verdict)[0]])
                self.divide(verdict, watch, [values[node.name] for values in (followed, *plain)])
            except Mixed as error:
                self.failed(verdict, str(error))
            except Exception as error:  # whatever a module raises without weights and images
                self.failed(verdict, f"cannot be followed without weights: {first_line(error)}")
                verdict.mutates = True
            if verdict.reason:
                self.complete(node, (followed, *plain))

    def failed(self, verdict: Verdict, reason: str) -> None:
        mode = " in training mode" if self.training and "training mode" not in reason else ""
        verdict.reason = verdict.reason or reason + mode
        verdict.rows = None

    def complete(self, node: Node, environments: Sequence[dict[str, Any]]) -> None:
        """Later calls cannot read what failed; they are not followed."""
        for values in environments:
            values.pop(node.name, None)

    def values(self, batch: int) -> dict[str, Any]:
        """The inputs on the meta device."""

        def tensor(leaf: Any) -> Any:
            if not isinstance(leaf, TensorInfo):
                return leaf
            made = torch.empty((batch, *leaf.sample), dtype=getattr(torch, leaf.dtype), device="meta")
            return made.requires_grad_().mul(1) if made.is_floating_point() else made

        return {name: map_structure(tensor, info) for name, info in self.inputs.items()}

    def recorded(self, node: Node, values: dict[str, Any], verdict: Verdict) -> tuple[list[_Step], bool]:
        """The operations that a call makes, and whether it changes its module; adds its result to the values."""
        missing = [name for name in node.refs() if name not in values]
        if missing:
            raise Mixed(f"reads `{missing[0]}`, which mixes the batch")
        module = self.graph.module_of(node)
        state = _state(module)
        read = [(t, t._version) for name in node.refs() for t in tensors_in(_listed(values[name]))]
        record = _Record(self.graph)
        with self.calling(node), record:
            values[node.name] = evaluate(self.graph, node, values)
        verdict.mutates |= any(t._version != version for t, version in read)
        if record.random:
            raise Mixed(f"draws random numbers{record.source}")
        if any(_custom(t) for t in tensors_in(_listed(values[node.name]))):
            raise Mixed("has a gradient of its own (`torch.autograd.Function`)")
        return record.steps, _state(module) != state

    @contextmanager
    def calling(self, node: Node) -> Iterator[None]:
        module = self.graph.module_of(node)
        modes = [(m, m.training) for m in module.modules()] if module is not None else []
        frozen = self.graph.frozen
        inside = (
            as_in_training(module, str(node.target), frozen) if module is not None and self.training else nullcontext()
        )
        for part, _ in modes:
            part.training = False
        try:
            with inside, torch.enable_grad(), torch.device("meta"):
                yield
        finally:
            for part, mode in modes:
                part.training = mode

    def divide(self, verdict: Verdict, watch: _Follow, results: list[Any]) -> None:
        """Whether a result's rows can be divided by samples."""
        value, first, second, single = results
        verdict.is_tensor = isinstance(value, torch.Tensor)
        if not verdict.is_tensor:
            return
        found = watch.owners.get(value)
        fixed = first.shape == second.shape
        rows: int | None = None
        if found is None:
            rows = 0 if fixed else None
        elif found.ndim and found.shape[0] and found.shape[0] % _BATCHES[0] == 0:
            count = found.shape[0] // _BATCHES[0]
            expected = torch.arange(float(_BATCHES[0])).repeat_interleave(count)
            try:
                owner = along(found, range(1, found.ndim)).flatten().expand(found.shape[0])
                same = bool((owner == expected).all()) and first.shape[1:] == second.shape[1:] == single.shape[1:]
                rows = count if same and single.shape[0] == count else None
            except Mixed:
                rows = None
        known = self.training and verdict.rows != rows
        verdict.rows = None if known else rows


def _listed(value: Any) -> list[Any]:
    return list(leaves(value))


def _state(module: nn.Module | None) -> Any:
    """What tells whether a call changed something of a module."""
    if module is None:
        return None
    plain = (int, float, bool, str, type(None))
    return [
        (
            name,
            [(k, b if b is None else b._version, id(b)) for k, b in part._buffers.items()],
            [(k, v if isinstance(v, plain) else id(v)) for k, v in part.__dict__.items() if k != "training"],
        )
        for name, part in module.named_modules()
    ]


def _custom(tensor: torch.Tensor) -> bool:
    """Whether Python code computes a part of a tensor's gradient."""
    seen, left = set(), [tensor.grad_fn]
    while left:
        step = left.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if isinstance(step, torch.autograd.function.BackwardCFunction):
            return True
        left += [following for following, _ in step.next_functions]
    return False


@dataclass
class _Step:
    """One operation: its name and its arguments that are not tensors."""

    name: str
    numbers: list[Any]


def _varying(steps: Sequence[list[_Step]]) -> list[bool]:
    """For each operation, whether its numbers depend on the batch size.

    Raises:
        Mixed: if the operations themselves do.
    """
    names = [[s.name for s in each if s.name not in _MOVES] for each in steps]
    if names[0] != names[1]:
        raise Mixed("calls other operations for another batch size")
    return [a.numbers != b.numbers for a, b in zip(steps[0], steps[1], strict=False)]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation outside of registered modules."""

    def __init__(self, graph: ModelGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside: list[nn.Module] = []
        self.opaque = 0
        self.hooks: list[Any] = []

    def __enter__(self) -> Any:
        self.hooks = [
            register_module_forward_pre_hook(self.enter),
            register_module_forward_hook(self.leave, always_call=True),
        ]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)  # type: ignore[no-untyped-call]
        for hook in self.hooks:
            hook.remove()
        self.inside, self.opaque = [], 0

    def enter(self, module: nn.Module, args: Any) -> None:
        self.inside.append(module)
        known = _registered.get(type(module))
        if known is False:
            raise Mixed(f"contains `{type(module).__name__}`, which is registered as mixing the batch")
        self.opaque += known is True

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
        if _registered.get(type(module)) is True:
            if self.opaque == 1:  # still, so that this mode does not see what the owners are computed with
                with torch.device("cpu"):
                    self.declared(module, args, result)
            self.opaque -= 1

    def declared(self, module: nn.Module, args: Any, result: Any) -> None:
        """Called after a registered module."""

    @property
    def where(self) -> str:
        return f" (`{type(self.inside[-1]).__name__}`)" if len(self.inside) > 1 else ""


class _Record(_Watch):  # type: ignore[no-untyped-call]
    """Writes down the operations."""

    def __init__(self, graph: ModelGraph) -> None:
        super().__init__(graph)
        self.steps: list[Any] = []
        self.random = False
        self.source = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.opaque:
            if torch.Tag.nondeterministic_seeded in func.tags and not self.random:
                self.random, self.source = True, self.where
            numbers = [leaf for leaf in leaves((args, kwargs)) if not isinstance(leaf, torch.Tensor)]
            self.steps.append(_Step(_name(func), numbers))
        return func(*args, **kwargs)


class _Follow(_Watch):  # type: ignore[no-untyped-call]
    """Follows the owners of values through operations."""

    def __init__(self, graph: ModelGraph) -> None:
        super().__init__(graph)
        self.owners: Any = WeakTensorKeyDictionary()
        self.varying: Iterator[bool] = iter(())

    def expect(self, varying: Sequence[bool]) -> None:
        """Sets which of the next operations are called with numbers that depend on the batch size."""
        self.varying = iter(varying)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not self.opaque:
            try:
                self.step(func, _bound(func, args, kwargs or {}), results)
            except Mixed as error:
                raise Mixed(f"{error}{self.where}") from None
        return results

    def step(self, func: Any, args: dict[str, Any], results: Any) -> None:
        name = _name(func)
        varies = next(self.varying, True)
        read = tensors_in(args)
        tracked = any(t in self.owners for t in read)
        if varies and name not in SIZED:
            raise Mixed(f"computes with the batch size (`{name}`)")
        if not tracked:
            if varies:
                self.sized(name, args, results)
            return
        found = self.rule(func, name, args, results)
        self.unchanged(func, args, found)
        for result, own in zip(_results(results), found, strict=True):
            if own is not None and isinstance(result, torch.Tensor):
                self.owners[result] = own

    def rule(self, func: Any, name: str, args: dict[str, Any], results: Any) -> list[Any]:
        try:
            return owners_of_results(name, args, results, self.owners.get, torch.Tag.pointwise in func.tags)
        except Mixed:
            raise
        except Exception as error:
            raise Mixed(f"the operation `{name}` cannot be followed: {first_line(error)}") from None

    def unchanged(self, func: Any, args: dict[str, Any], found: list[Any]) -> None:
        """Refuses a write that puts values of other samples into a tensor, since views of it would not know."""
        for argument in func._schema.arguments:
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for target in tensors_in(args.get(argument.name)):
                before, after = self.owners.get(target), found[0]
                if (before is None) != (after is None) or (before is not None and not _equal(before, after)):
                    raise Mixed(f"writes values of samples into another tensor (`{_name(func)}`)")

    def sized(self, name: str, args: dict[str, Any], results: Any) -> None:
        """What is made with the batch size: as if each sample had its own part of it."""
        result = results
        if name not in ("expand", "repeat", *_FACTORIES) or not isinstance(result, torch.Tensor):
            raise Mixed(f"computes with the batch size (`{name}`)")
        batch = _BATCHES[0]
        given = args["self"].shape if name in ("expand", "repeat") else ()
        padded = (*[1] * (result.ndim - len(given)), *given)
        dims = [d for d, s in enumerate(result.shape) if s % batch == 0 and (s // batch == padded[d] or not given)]
        if len(dims) != 1:
            raise Mixed(f"computes with the batch size (`{name}`)")
        size = result.shape[dims[0]]
        number = torch.arange(float(batch)).repeat_interleave(size // batch)
        shape = [size if d == dims[0] else 1 for d in range(result.ndim)]
        self.owners[result] = spread(number.reshape(shape), result.shape)

    def declared(self, module: nn.Module, args: Any, result: Any) -> None:
        """The result of a registered module has the rows of what it reads."""
        batch = _BATCHES[0]
        for value in tensors_in(_listed(args)):
            found = self.owners.get(value)
            if found is not None and not _is_rows(found, batch):
                raise Mixed(f"`{type(module).__name__}` reads values that are not divided by samples")
        for value in tensors_in(_listed(result)):
            if value.ndim and value.shape[0] == batch:
                number = torch.arange(float(batch)).reshape(-1, *[1] * (value.ndim - 1))
                self.owners[value] = spread(number, value.shape)
            else:
                raise Mixed(f"`{type(module).__name__}` returns another number of rows than it reads")


_FACTORIES = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")


def _is_rows(found: Owners, batch: int) -> bool:
    owner = along(found, range(1, found.ndim)).flatten() if found.ndim else found
    return len(owner) == batch and bool((owner == torch.arange(float(batch))).all())


def _equal(first: Owners, second: Owners) -> bool:
    a, b = torch.broadcast_tensors(compact(first), compact(second))  # type: ignore[no-untyped-call]
    return first.shape == second.shape and torch.equal(a, b)


def _name(func: Any) -> str:
    space, _, name = func._schema.name.partition("::")
    return name if space == "aten" else f"{space}::{name}"


def _bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [a.name for a in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _results(results: Any) -> list[Any]:
    return list(results) if isinstance(results, (tuple, list)) else [results]
