"""Watches the operations of a call: writes them down, and follows which samples each value depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from graphmodel.components.structure import leaves
from graphmodel.diagnostics import first_line
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.per_sample import registered
from graphmodel.passes.sample_ops import SIZED, Mixed, Owners, along, compact, owners_of_results, spread, tensors_in

BATCHES = (5, 8, 1)
"""Two batch sizes that tell what depends on the size, and one for code that drops dimensions of one element."""
_MOVES = frozenset("clone view _unsafe_view alias detach contiguous".split())


@dataclass
class Step:
    """One operation: its name and its arguments that are not tensors."""

    name: str
    numbers: list[Any]


def varying_numbers(steps: Sequence[list[Step]]) -> list[bool]:
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
        known = registered.get(type(module))
        if known is False:
            raise Mixed(f"contains `{type(module).__name__}`, which is registered as mixing the batch")
        self.opaque += known is True

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
        if registered.get(type(module)) is True:
            if self.opaque == 1:  # still, so that this mode does not see what the owners are computed with
                with torch.device("cpu"):
                    self.declared(module, args, result)
            self.opaque -= 1

    def declared(self, module: nn.Module, args: Any, result: Any) -> None:
        """Called after a registered module."""

    @property
    def where(self) -> str:
        return f" (`{type(self.inside[-1]).__name__}`)" if len(self.inside) > 1 else ""


class Record(_Watch):  # type: ignore[no-untyped-call]
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
            self.steps.append(Step(_name(func), numbers))
        return func(*args, **kwargs)


class Follow(_Watch):  # type: ignore[no-untyped-call]
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
        batch = BATCHES[0]
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
        batch = BATCHES[0]
        for value in tensors_in(list(leaves(args))):
            found = self.owners.get(value)
            if found is not None and not _is_rows(found, batch):
                raise Mixed(f"`{type(module).__name__}` reads values that are not divided by samples")
        for value in tensors_in(list(leaves(result))):
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
