"""What a feature of a trunk is: a named value, the modules it is tapped from, and how the trunk runs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import nn

from graphmodel.components.tensors import Layout

Compute = Callable[..., Any]
"""Makes a feature of the trunk and the values that it taps: `compute(trunk, *tapped)`."""

INPUT_OF = ":input"
"""A tap with this suffix means what the module is called with, not what it returns."""


class Running(Protocol):
    """What a runner may ask of whoever runs the trunk: the tracer, or a plain call."""

    def tapped(self, path: str) -> Any:
        """The output of the trunk's module at `path`, or with the suffix `:input` what it was called with."""

    def raw(self, value: Any) -> Any:
        """The trunk's own value behind a map that a library reshaped from it."""

    def same(self, value: Any, other: Any) -> bool:
        """Whether two values are made by the same calls of the same values."""

    def forget(self) -> None:
        """Starts over after a run that failed half-way."""


Runner = Callable[[nn.Module, Sequence["Feature"], Any, Mapping[str, Any], Running], dict[str, Any]]
"""Runs a trunk for features: `runner(trunk, features, x, extras, running)` returns each feature by its name."""


@dataclass(frozen=True)
class Feature:
    """A named value inside a trunk.

    Example:
        >>> import graphmodel
        >>> graphmodel.Feature("res5", ("layer4",), aliases=("last",)).taps
        ('layer4',)

    Attributes:
        name: what specs call it.
        taps: dotted paths of the trunk's modules whose outputs it is made of (`path:input` for what the module is
            called with); none taps the trunk's own result.
        compute: makes the feature of the trunk and the tapped values, `compute(trunk, *tapped)`; it is traced like
            the trunk's own code, so it may call the trunk's modules. None means the one tapped value itself.
        aliases: further names.
        layout: how its dimensions are arranged; `other` leaves it to its shape.
        runner: how the trunk is run for it and for the features beside it; None calls the trunk.
    """

    name: str
    taps: tuple[str, ...] = ()
    compute: Compute | None = None
    aliases: tuple[str, ...] = ()
    layout: Layout = "nchw"
    runner: Runner | None = None


def run_plain(
    trunk: nn.Module, features: Sequence[Feature], x: Any, extras: Mapping[str, Any], running: Running
) -> dict[str, Any]:
    """Calls the trunk and makes every feature of what was tapped on the way."""
    return of_taps(trunk, features, trunk(x, **extras), running)


def of_taps(trunk: nn.Module, features: Sequence[Feature], whole: Any, running: Running) -> dict[str, Any]:
    """Every feature of a run whose own result is `whole`.

    All taps are looked up before anything is computed: a feature may call the trunk's modules once more.
    """
    tapped = [[running.tapped(path) for path in f.taps] or [whole] for f in features]
    return {
        f.name: values[0] if f.compute is None else f.compute(trunk, *values)
        for f, values in zip(features, tapped, strict=True)
    }


def part_of(name: str, trunk: nn.Module) -> Feature | None:
    """The feature `PATH.KEY`: an item of the list, tuple or mapping that a module returns, or of the trunk's `output`.

    Items of modules are counted (`rnn.0`); only `output` may have names, so that a mistyped path is not taken for one.
    """
    first, _, keys = name.partition(".")
    if first == "output" and keys:
        return Feature(name, (), partial(_item, name, tuple(keys.split("."))), layout="other")
    path, _, key = name.rpartition(".")
    module = dict(trunk.named_modules()).get(path)
    if module is None or not key.isdigit() or isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        return None
    return Feature(name, (path,), partial(_item, name, (key,)), layout="other")


def _item(name: str, keys: tuple[str, ...], trunk: nn.Module, value: Any) -> Any:
    for key in keys:
        items = items_of(value)
        if key not in items:
            what = f"it has {', '.join(f'`{k}`' for k in items)}" if items else "it is one tensor"
            raise FeatureError(f"`{name}` names no item of what the module returns", what, name)
        value = items[key]
    return value


def items_of(value: Any) -> dict[str, Any]:
    """The items of a list, tuple or mapping under the names that specs use for them; nothing else has any."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


class FeatureError(Exception):
    """What an edge asks of a feature (a layout, tokens, a norm, pooling) and the feature does not allow.

    Attributes:
        help: how to fix it.
        name: the requested feature's name.
    """

    def __init__(self, message: str, help: str = "", name: str = "") -> None:
        super().__init__(message)
        self.help, self.name = help, name
