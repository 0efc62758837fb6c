"""Builds modules on the meta device without memory, and for real each with its own seed."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


@contextmanager
def on_meta(
    replace: Callable[[nn.Parameter], nn.Parameter] | None = None, keep_buffers: bool = False
) -> Iterator[None]:
    """Inside, every parameter and buffer moves to the meta device as it is registered.

    Unlike `torch.device("meta")` this leaves tensor arithmetic in constructors alone (torchvision's RegNet computes
    its widths with tensors). Not thread-safe: it patches `nn.Module` while it lasts.

    Args:
        replace: makes the parameter on the meta device that takes the place of a real one.
        keep_buffers: whether buffers stay where they are.
    """
    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer

    def parameter(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register_parameter(module, name, param)
        if param is not None and not param.is_meta:
            module._parameters[name] = (replace or _parameter_on_meta)(param)

    def buffer(module: nn.Module, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        register_buffer(module, name, tensor, persistent=persistent)
        if tensor is not None and not keep_buffers:
            module._buffers[name] = tensor.to("meta")

    nn.Module.register_parameter = parameter  # type: ignore[method-assign, assignment]
    nn.Module.register_buffer = buffer  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
        nn.Module.register_buffer = register_buffer  # type: ignore[method-assign]


def _parameter_on_meta(param: nn.Parameter) -> nn.Parameter:
    made: nn.Parameter = type(param)(param.to("meta"), requires_grad=param.requires_grad)
    return made


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; afterwards, the caller's state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def component_seed(seed: int, component: str) -> int:
    """The seed of a component's own stream, so that adding one changes no other's weights.

    Trunks draw from `seed` itself: they then get what the library's own constructor gives under `manual_seed(seed)`.
    """
    return seed if component.startswith("trunk") else zlib.crc32(f"{seed}:{component}".encode())


FILLING = ("add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")
"""Methods by which constructors fill their tensors."""


@contextmanager
def uninitialised() -> Iterator[None]:
    """Inside, tensors on meta are not filled: there is nothing to fill, and it takes half of the time.

    Not thread-safe: it patches `torch.Tensor` while it lasts, since a mode would be asked about every function.
    """

    def unless_meta(plain: Callable[..., Any]) -> Callable[..., Any]:
        def fill(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            return tensor if tensor.is_meta else plain(tensor, *args, **options)

        return fill

    own = {name: vars(torch.Tensor).get(name) for name in FILLING}
    for name in FILLING:
        setattr(torch.Tensor, name, unless_meta(getattr(torch.Tensor, name)))
    try:
        yield
    finally:
        for name, method in own.items():
            if method is None:  # inherited
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, method)


MAX_MODULES = 20_000
"""The most modules that a trunk or a head may consist of; the largest models of the libraries have some 5,000."""


class TooManyModules(Exception):
    """A constructor that makes more modules than any real model has, such as one with a misspelled depth."""


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Inside, no more than so many modules are made.

    Not thread-safe: it patches `nn.Module` while it lasts.

    Raises:
        TooManyModules: in the constructor of the next one.
    """
    plain, count = nn.Module.__init__, 0

    def init(module: nn.Module, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise TooManyModules(f"it would have more than {most:,} modules")
        plain(module, *args, **options)

    nn.Module.__init__ = init  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__init__ = plain  # type: ignore[method-assign]


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The module on the meta device, built without memory if one of two ways works, else built for real and moved.

    Raises:
        TooManyModules: if it has more modules than any real model.
    """
    with torch.random.fork_rng(devices=[]), limited(MAX_MODULES):
        # Some constructors combine their parameters with other tensors, which must then be on meta too.
        for place in (on_meta(), torch.device("meta"), nullcontext()):
            try:
                with place, uninitialised():
                    return build().to("meta")
            except (NotImplementedError, RuntimeError) as error:
                problem = error
        raise problem


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device, made without copying any tensor."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        moved = tensor.detach().to("meta")
        memo[id(tensor)] = (
            nn.Parameter(moved, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
        )
    return copy.deepcopy(module, memo)


def specialize(module: nn.Module, to: type[nn.Module]) -> None:
    """Turns a library's module into our subclass of its class, in place.

    The library's constructors and initialisation have run and stay as they are; only methods differ. The subclass may
    therefore add no state of its own.

    Raises:
        TypeError: if `to` is not a subclass of the module's class.
    """
    if not issubclass(to, type(module)):
        raise TypeError(f"{to.__name__} is not a subclass of {type(module).__name__}")
    module.__class__ = to


def is_meta(module: nn.Module) -> bool:
    """Whether the module's tensors are all on the meta device."""
    tensors: list[Any] = [*module.parameters(), *module.buffers()]
    return bool(tensors) and all(t.is_meta for t in tensors)


def load_file(module: nn.Module, path: str) -> nn.Module:
    """The module with the weights of a file in its own layout; no key may be missing or unexpected.

    Args:
        module: what to load into.
        path: a `.safetensors` file, or a checkpoint of tensors and plain data, with or without `state_dict` or `model`.

    Raises:
        OSError: if the file cannot be read.
        RuntimeError: if a key is missing or unexpected, or a shape differs.
    """
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file as read

        state: Any = read(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state.get(key), dict) else state
    module.load_state_dict(state)
    return module
