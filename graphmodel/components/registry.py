"""The names that specs use: `register_head`, `register_trunk`, and the look-up of both."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

from torch import nn

from graphmodel.components.family import TrunkFamily
from graphmodel.components.head import HeadParams
from graphmodel.components.index import Kind, builtin, unknown_head_text
from graphmodel.components.signature import PlainTrunk, by_keywords, head_params

T = TypeVar("T")


class AlreadyRegistered(ValueError):
    """A name that is taken; names are never replaced silently."""


@dataclass(frozen=True)
class HeadEntry:
    """A registered head.

    Attributes:
        name: what specs call it.
        params: the Pydantic model of its parameters.
        build: makes the module of validated parameters with nothing left to infer.
        summary: one line for listings.
    """

    name: str
    params: type[HeadParams]
    build: Callable[[Any], nn.Module]
    summary: str = ""


_heads: dict[str, HeadEntry] = {}
_trunks: dict[str, TrunkFamily[Any]] = {}
_owners: dict[tuple[Kind, str], str] = {}


def register_head(name: str, *aliases: str, params: type[HeadParams] | None = None) -> Callable[[T], T]:
    """Registers a head under `name` (and aliases), for specs to use.

    With `params`, the decorated class or function is called with one validated instance of it. Otherwise its own
    signature gives the parameters, which are annotated keywords; if a spec leaves out `in_features`, `in_channels` or
    `in_dim`, the value is read from the feature.

    Example:
        >>> import graphmodel, torch
        >>> from torch import nn
        >>> @graphmodel.register_head("angular")
        ... class Angular(nn.Module):
        ...     def __init__(self, in_features: int, num_classes: int, scale: float = 16.0):
        ...         super().__init__()
        ...         self.weight, self.scale = nn.Parameter(torch.randn(num_classes, in_features)), scale
        ...     def forward(self, x):
        ...         return self.scale * nn.functional.linear(nn.functional.normalize(x), self.weight)
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"angular": {"num_classes": 7}}}}, seed=0)
        >>> model(torch.zeros(2, 3, 64, 64))["label"].shape
        torch.Size([2, 7])

    Raises:
        AlreadyRegistered: if another class has the name.
    """

    def decorate(builder: T) -> T:
        model = params or head_params(builder, name)
        build = builder if params is not None else by_keywords(builder)
        summary = (inspect.getdoc(builder) or "").partition("\n")[0]
        for each in (name, *aliases):
            _claim("head", _heads, each, builder)
            _heads[each] = HeadEntry(each, model, build, summary)  # type: ignore[arg-type]
        return builder

    return decorate


def register_trunk(name: str, *aliases: str) -> Callable[[T], T]:
    """Registers a trunk: a `TrunkFamily` subclass, or a module class or factory whose signature is its parameters.

    A plain module's features are those of its attribute `features` (if it has one: a mapping from names to dotted
    module paths), every dotted module path, and `output`, its own result, which is the default.

    Example:
        >>> import graphmodel
        >>> from torch import nn
        >>> @graphmodel.register_trunk("one_layer")
        ... class OneLayer(nn.Module):
        ...     def __init__(self, width: int = 8):
        ...         super().__init__()
        ...         self.conv = nn.Conv2d(3, width, 3)
        ...     def forward(self, x):
        ...         return self.conv(x)
        >>> spec = {"inputs": {"images": [3, 8, 8]}, "trunk": {"name": "one_layer", "width": 4}}
        >>> list(graphmodel.compile(spec, seed=0).model_graph.outputs)
        ['features']

    Raises:
        AlreadyRegistered: if another class has the name.
    """

    def decorate(builder: T) -> T:
        for each in (name, *aliases):
            _claim("trunk", _trunks, each, builder)
            if isinstance(builder, type) and issubclass(builder, TrunkFamily):
                _trunks[each] = builder(each)
            else:
                _trunks[each] = PlainTrunk(each, builder)
        return builder

    return decorate


def _claim(kind: Kind, table: dict[str, Any], name: str, builder: Any) -> None:
    """Lets the same class register again (a notebook cell run twice) and refuses any other.

    A built-in name belongs to its file before that file is imported.
    """
    owner = f"{builder.__module__}.{builder.__qualname__}"
    holder = _owners.get((kind, name)) if name in table else builtin(kind).get(name)
    if holder is not None and holder not in (owner, builder.__module__):
        raise AlreadyRegistered(f"`{name}` is already registered by {holder}")
    _owners[kind, name] = owner


def head_names() -> list[str]:
    """Every registered head."""
    _load_installed()
    return sorted(builtin("head").keys() | _heads)


def trunk_names() -> list[str]:
    """Every registered trunk family."""
    _load_installed()
    return sorted(builtin("trunk").keys() | _trunks)


def find_head(name: str) -> HeadEntry | None:
    """The head of that name, or None; imports only the file that has it.

    `PACKAGE:CLASS` gives a layer of a library, such as `torch.nn:Conv2d`.
    """
    if ":" in name and name not in _heads:
        from graphmodel.components.library.layer_names import InvalidLayer
        from graphmodel.components.library.layers import find_layer

        try:
            return find_layer(name)
        except InvalidLayer:
            return None
    return _find("head", _heads, name)


def unknown_head(name: str) -> tuple[str, str]:
    """What is wrong with the name of a head that `find_head` does not find, and how to fix it."""
    if ":" in name:
        from graphmodel.components.library.layer_names import InvalidLayer
        from graphmodel.components.library.layers import find_layer

        try:
            find_layer(name)
        except InvalidLayer as error:
            return str(error), error.help
    return unknown_head_text(name, head_names())


def find_trunk(name: str) -> TrunkFamily[Any] | None:
    """The family of that name, or None; imports only the file that has it.

    `timm:NAME` and `torchvision:NAME` give the library's model.
    """
    family, colon, variant = name.partition(":")
    found = _find("trunk", _trunks, family if colon else name)
    return found.bind(variant) if colon and found is not None else found


def _find(kind: Kind, table: dict[str, T], name: str) -> T | None:
    if name not in table:
        if name in builtin(kind):
            importlib.import_module(builtin(kind)[name])
        else:
            _load_installed()
    return table.get(name)


@cache
def _load_installed() -> None:
    """Imports what other packages offer in the entry points `graphmodel.components`; their decorators register it."""
    for entry in metadata.entry_points(group="graphmodel.components"):
        try:
            entry.load()
        except Exception as error:  # one broken package must not make every spec fail
            warnings.warn(f"heads and trunks of `{entry.value}` are missing: {error}", stacklevel=2)


@contextmanager
def temporary_registrations() -> Iterator[None]:
    """Inside, heads and trunks may be registered; afterwards their names are free again. Built-in ones stay."""
    before = {"head": set(_heads), "trunk": set(_trunks)}
    try:
        yield
    finally:
        tables: tuple[tuple[Kind, dict[str, Any]], ...] = (("head", _heads), ("trunk", _trunks))
        for kind, table in tables:
            for name in set(table) - before[kind] - builtin(kind).keys():
                del table[name], _owners[kind, name]
