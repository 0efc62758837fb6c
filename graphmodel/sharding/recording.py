"""Records how a constructor initialises its parameters, without memory for them, to make them one by one later.

The constructor runs with its parameters on the meta device. What it does to them is written down; random numbers are
drawn and thrown away, so that the generator is where it would be, and its state is written down with each draw. A
parameter is made by doing again what was done to it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from graphmodel.components.construct import on_meta

_FILLING = (
    torch.ops.aten.normal_.default,
    torch.ops.aten.uniform_.default,
    torch.ops.aten.fill_.Scalar,
    torch.ops.aten.zero_.default,
)
_ALLOCATING = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
)

_REJECTING = "_no_grad_trunc_normal_"
"""The function of `torch.nn.init` that draws again depending on the numbers that it drew: one step as a whole."""


class CannotRecord(Exception):
    """A constructor reads values that are not there, or draws random numbers in a way that cannot be repeated."""


@dataclass
class Step:
    """One operation on tensors of the meta device.

    Attributes:
        func: the operation; None if `args` is a value that a parameter had when it was registered.
        args: its arguments, those on the meta device with the sizes and strides that they had.
        kwargs: the same for keyword arguments.
        result: what it returned.
        reads: storages that it reads or writes.
        writes: storages that it writes or makes.
        fills: the storage that it overwrites wholly, whatever was there; 0 for none.
        random: the state of torch's generator before it, if it draws from it.
        versions: real tensors among the arguments, with their versions.
    """

    func: Any
    args: Any
    kwargs: dict[str, Any]
    result: Any
    reads: set[int]
    writes: set[int]
    fills: int = 0
    random: torch.Tensor | None = None
    versions: tuple[tuple[torch.Tensor, int], ...] = ()


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What a constructor does to its parameters."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.by_storage: dict[int, list[int]] = {}
        self.alive: dict[int, Any] = {}
        self.empty: set[int] = set()
        self.replaced: dict[int, tuple[Callable[[], Any], nn.Parameter | None]] = {}
        self.scratch = torch.empty(0, dtype=torch.uint8)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if not any(tensor.is_meta for tensor in given):
            random = self.draw(func, args, kwargs, given) if _makes_on_meta(kwargs) else None
            result = func(*args, **kwargs)
            self.note_real(func, args, kwargs, result)
            made = [tensor for tensor in _tensors(result) if tensor.is_meta]
            if made and func not in _ALLOCATING:
                versions = tuple((t, t._version) for t in given)
                writes = {_key(t) for t in made}
                self.add(Step(func, args, kwargs, _aliases(result), set(), writes, 0, random, versions), made)
            return result
        random = self.draw(func, args, kwargs, given)
        kept_args, kept_kwargs = _aliases((args, kwargs))
        result = func(*_on_meta(args), **_on_meta(kwargs))
        written = _written(func, args, kwargs)
        made, held = _tensors(result), {_key(t) for t in given}
        changed = {_key(t) for t in (*written, *(t for t in made if _key(t) not in held)) if t.is_meta}
        if changed:
            self.add(
                Step(
                    func,
                    kept_args,
                    kept_kwargs,
                    _aliases(result),
                    {_key(t) for t in given if t.is_meta},
                    changed,
                    _key(args[0]) if func in _FILLING and _is_whole(args[0]) else 0,
                    random,
                    tuple((t, t._version) for t in given if not t.is_meta),
                ),
                [*given, *made],
            )
        return result

    def draw(self, func: Any, args: Any, kwargs: Any, given: list[torch.Tensor]) -> torch.Tensor | None:
        """Draws what an operation draws, and returns the generator's state before."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return None
        if kwargs.get("generator") is not None or [t for t in given if t is not args[0]]:
            raise CannotRecord(f"{func} draws random numbers that depend on other values")
        state = torch.get_rng_state()
        if not given:
            func(*args, **{**kwargs, "device": torch.device("cpu")})
            return state
        first = args[0]
        func(self.blank(first), *args[1:], **kwargs)
        return state

    def blank(self, tensor: torch.Tensor) -> torch.Tensor:
        """Real memory in the form of a tensor, for numbers that are thrown away.

        It is the same memory each time. If each draw had its own, what is kept between two draws would keep the C
        library from returning it, and the process would grow by more than the whole model.
        """
        if not tensor.numel():
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
        needed = (last + 1) * tensor.element_size()
        if needed > self.scratch.numel():
            self.scratch = torch.empty(needed, dtype=torch.uint8)
        return self.scratch[:needed].view(tensor.dtype).as_strided(tensor.size(), tensor.stride())

    def initialiser(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Replaces a function of `torch.nn.init` by one that records it as one step."""

        def initialise(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if not tensor.is_meta:
                return function(tensor, *args, **kwargs)
            if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
                raise CannotRecord(f"`{function.__name__}` draws from a generator of its own")
            state = torch.get_rng_state()
            function(self.blank(tensor), *args, **kwargs)
            key = _key(tensor)
            fills = key if _is_whole(tensor) else 0
            kept = tensor.detach()
            self.add(Step(function, (kept, *args), kwargs, kept, {key}, {key}, fills, state), [tensor])
            return tensor

        return initialise

    def note_real(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Keeps track of real memory that nothing was written to, which parameters often have when registered."""
        for tensor in _written(func, args, kwargs):
            self.empty.discard(_key(tensor))
        own = {_key(tensor) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if func in _ALLOCATING:
                self.empty.add(_key(tensor))
            elif _key(tensor) not in own:
                self.empty.discard(_key(tensor))

    def add(self, step: Step, tensors: list[torch.Tensor]) -> None:
        """Appends a step; the storages stay alive, so that no other one gets their place in memory."""
        self.alive.update((_key(t), t.untyped_storage()) for t in tensors if t.is_meta)
        for key in step.writes:
            self.by_storage.setdefault(key, []).append(len(self.steps))
        self.steps.append(step)

    def registered(self, param: nn.Parameter) -> nn.Parameter:
        """The parameter on the meta device that takes the place of a real one."""
        known, made = self.replaced.get(id(param), (lambda: None, None))
        if made is not None and known() is param:
            return made
        held = param.detach()
        moved = torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")
        self.alive[_key(moved)] = moved.untyped_storage()
        if _key(held) not in self.empty:
            step = Step(None, held, {}, moved, set(), {_key(moved)}, _key(moved), None, ((held, held._version),))
            self.add(step, [moved])
        made = type(param)(moved, requires_grad=param.requires_grad)
        self.replaced[id(param)] = (weakref.ref(param), made)
        return made

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a tensor on the meta device is after all steps.

        Raises:
            CannotRecord: if nothing was ever written to it, or a value that was copied into it changed since.
        """
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return _Replay(self).value(tensor.detach())


class _Replay:
    """Does some of the steps again with memory."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.memory: dict[int, torch.Tensor] = {}

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        steps = self.needed(_key(tensor))
        if not steps:
            raise CannotRecord("the constructor leaves a parameter without values")
        for step in steps:
            self.run(step)
        return self.real(tensor)

    def needed(self, key: int) -> list[Step]:
        """The steps that a storage depends on, in order."""
        known, wanted, found = {key}, [key], set()
        while wanted:
            for at in self.recording.by_storage.get(wanted.pop(), ()):
                found.add(at)
                more = self.recording.steps[at].reads - known
                known |= more
                wanted += more
        order = sorted(found)
        if known == {key}:  # what is overwritten later need not be made
            starts = [place for place, at in enumerate(order) if self.recording.steps[at].fills == key]
            order = order[starts[-1] :] if starts else order
        return [self.recording.steps[at] for at in order]

    def run(self, step: Step) -> None:
        for tensor, version in step.versions:
            if tensor._version != version:
                raise CannotRecord("a value that a parameter starts with changed after it was copied")
        if step.func is None:
            self.real(step.result).copy_(step.args)
            return
        if step.random is not None:
            torch.set_rng_state(step.random)
        made = step.func(*tree_map(self.given, step.args), **tree_map(self.given, step.kwargs))
        for real, meta in zip(_tensors(made), _tensors(step.result), strict=True):
            if meta.is_meta and _key(meta) not in step.reads:
                self.real(meta).copy_(real)

    def given(self, value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == "meta":
            return torch.device("cpu")
        return self.real(value) if isinstance(value, torch.Tensor) and value.is_meta else value

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """The real tensor in the place of one on the meta device."""
        key = _key(tensor)
        if key not in self.memory:
            self.memory[key] = torch.empty(tensor.untyped_storage().nbytes(), dtype=torch.uint8)
        flat = self.memory[key].view(tensor.dtype)
        return flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


class _HiddenMeta(TorchFunctionMode):
    """Answers code that asks whether a tensor is on the meta device that it is not, but on the CPU.

    Initialisers skip such tensors (`orthogonal_`, `dirac_` and `sparse_` of `torch.nn.init`), whether a library calls
    them as `nn.init.orthogonal_` or imports them by name. Torch's other code and our own get the true answer.
    """

    IS_META = torch.Tensor.is_meta.__get__  # type: ignore[attr-defined]
    DEVICE = torch.Tensor.device.__get__

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (self.IS_META, self.DEVICE):
            asking = str(sys._getframe(1).f_globals.get("__name__"))
            if asking == "torch.nn.init" or asking.partition(".")[0] not in ("torch", "graphmodel"):
                return False if func == self.IS_META else torch.device("cpu") if result.type == "meta" else result
        return result


def record(build: Callable[[], nn.Module]) -> tuple[nn.Module, Recording]:
    """A module whose parameters are on the meta device, and the recording that makes them.

    Buffers are real, unless they are computed from parameters.

    Args:
        build: the constructor; draws from torch's generator, which is left where the constructor leaves it.

    Raises:
        CannotRecord: if it reads values of parameters, such as with `.item()`.
    """
    recording = Recording()
    try:
        with ExitStack() as stack:
            rejecting = recording.initialiser(getattr(nn.init, _REJECTING))
            stack.enter_context(patch.object(nn.init, _REJECTING, rejecting))
            stack.enter_context(on_meta(recording.registered, keep_buffers=True))
            stack.enter_context(_HiddenMeta())
            stack.enter_context(recording)
            return build(), recording
    except (NotImplementedError, RuntimeError, TypeError) as error:  # no data, or tensors of two devices
        raise CannotRecord(str(error)) from error


def _makes_on_meta(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return isinstance(device, torch.device) and device.type == "meta"


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _aliases(values: Any) -> Any:
    """The values with tensors on meta as they are now: `t_` and the like change sizes and strides in place."""
    return tree_map(lambda v: v.detach() if isinstance(v, torch.Tensor) and v.is_meta else v, values)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_whole(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _on_meta(values: Any) -> Any:
    """The arguments with real tensors on the meta device too, except for scalars."""

    def moved(leaf: Any) -> Any:
        return leaf.to("meta") if isinstance(leaf, torch.Tensor) and not leaf.is_meta and leaf.dim() else leaf

    return tree_map(moved, values)


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operation changes in place."""
    found: list[torch.Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[place] if place < len(args) else kwargs.get(argument.name))
    return found
