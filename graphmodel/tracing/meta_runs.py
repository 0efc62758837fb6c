"""Executes recorded calls on the meta device, once for each run, and remembers what closed modules returned."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.fx._symbolic_trace import _orig_module_call

from graphmodel.components.structure import hashable, leaves, map_structure
from graphmodel.tracing.errors import Failed
from graphmodel.tracing.shape_only import ShapeOnlyOps, fixed_momentum


class MetaRuns:
    """The runs of one trace.

    Args:
        root: what paths of modules start from.
        tensors: the tensors that the trunk holds, by path.
        sample: for each placeholder, its value in each run.
        results: closed calls and what they returned, shared by traces of the same trunk.
        unrecorded: a context inside which no function is recorded, for speed.

    Attributes:
        active: a call is being executed: modules and functions act as usual and record nothing.
    """

    def __init__(
        self,
        root: nn.Module,
        tensors: Mapping[str, torch.Tensor],
        sample: Mapping[str, tuple[Any, ...]],
        results: dict[Hashable, Any],
        unrecorded: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.root, self.tensors, self.sample, self.results = root, tensors, sample, results
        self.unrecorded = unrecorded
        self.count = len(next(iter(sample.values())))
        self.active = False

    def values(self, kind: str, target: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The result of a call in each run; `Failed` for whatever another image size breaks."""
        found: list[Any] = [None] * self.count
        # The first run comes last, so that what a module stores on itself is of the compiled size.
        for which in reversed(range(self.count)):
            try:
                found[which] = self.value(kind, target, args, kwargs, which)
            except Exception as error:  # the trunk's own code may raise anything
                if which < 2:
                    raise
                found[which] = Failed(error)
        return tuple(found)

    def value(self, kind: str, target: Any, args: Any, kwargs: Any, which: int) -> Any:
        """The result of a call in run `which`; `Failed` if an argument has no value or a closed module raises."""
        if kind == "placeholder":
            return self.sample[str(target)][which]

        def on_meta(x: Any) -> Any:
            if isinstance(x, fx.Proxy):
                return x.node.meta["values"][which]
            return x.to("meta") if isinstance(x, torch.Tensor) else x

        args, kwargs = map_structure(on_meta, args), map_structure(on_meta, kwargs)
        failed = next((x for x in leaves((args, kwargs)) if isinstance(x, Failed)), None)
        if failed is not None:
            return failed
        self.active = True
        try:
            with self.unrecorded(), torch.no_grad(), torch.device("meta"):
                if kind == "get_attr":
                    return self.tensors[target].to("meta")
                if kind == "call_module":
                    try:
                        return self._closed(target, args, kwargs)
                    except Exception as error:  # a library's module may raise anything
                        return Failed(error)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs)
        finally:
            self.active = False

    def _closed(self, target: str, args: Any, kwargs: Any) -> Any:
        """A closed module's result; calls that only compute are remembered by the shapes that they read."""
        module = self.root.get_submodule(target)
        mode = module.training
        key: tuple[Hashable, ...] = (target, hashable((args, kwargs), _read))
        kind = None
        if key in self.results:
            result, then = self.results[key]
            if mode != then:
                # Modules of one kind return the same shapes in both modes, or (if they drop tokens) none of them does.
                kind = ("modes", frozenset(map(type, module.modules())))
                key = (*key, mode) if self.results.get(kind) else key
                result, _ = self.results.get(key, (None, mode))
            if kind is None or (kind in self.results and key in self.results):
                return map_structure(_fresh, result)
        inputs = tensors_in((args, kwargs))
        before = [t._version for t in inputs]
        with ShapeOnlyOps(), fixed_momentum(module):
            result = _orig_module_call(module, *args, **kwargs)
        if kind is not None and kind not in self.results:
            differs = hashable(result, _read) != hashable(self.results[key][0], _read)
            self.results[kind] = differs
            key = (*key, mode) if differs else key
        fresh = not storages(inputs) & storages(result)
        if fresh and before == [t._version for t in inputs]:
            self.results[key] = result, mode
        return result


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor of a nested value."""
    return [x for x in leaves(value) if isinstance(x, torch.Tensor)]


def storages(value: Any) -> set[int]:
    """The memory of all tensors in a value."""
    return {t.untyped_storage()._cdata for t in tensors_in(value)}


def version(value: Any) -> tuple[int, ...]:
    """In-place change counters of all tensors in a value."""
    return tuple(t._version for t in tensors_in(value))


def _read(value: Any) -> Hashable:
    """What a call on the meta device can read of an argument."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return repr(value)


def _fresh(value: Any) -> Any:
    """A new meta tensor of the same shape; other values as they are."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
