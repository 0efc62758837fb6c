"""The names that specs use: `register_head`, `register_trunk`, and the look-up of both."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, create_model
from torch import nn

from graphmodel.components.family import TrunkFamily
from graphmodel.components.features import Feature
from graphmodel.components.head import Auto, HeadParams, match_width, width
from graphmodel.components.library.naming import default_of, features_of, naming_of
from graphmodel.components.tensors import TensorInfo

T = TypeVar("T")


class AlreadyRegistered(ValueError):
    """A name that is taken; names are never replaced in silence."""


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
_owners: dict[tuple[int, str], str] = {}


def register_head(name: str, *aliases: str, params: type[HeadParams] | None = None) -> Callable[[T], T]:
    """Registers a head under `name` (and aliases), for specs to use.

    With `params`, the decorated class or function is called with one validated instance of it. Without, its own
    signature gives the parameters: annotated keywords; `in_features`, `in_channels` and `in_dim` may be left out and
    are then read off the feature.

        @graphmodel.register_head("cosine")
        class Cosine(nn.Module):
            def __init__(self, in_features: int, num_classes: int, scale: float = 16.0): ...

    Raises:
        AlreadyRegistered: where another class holds the name.
    """

    def decorate(builder: T) -> T:
        model = params or _params_of(builder, name, HeadParams)
        build = builder if params is not None else _by_keywords(builder)
        summary = (inspect.getdoc(builder) or "").partition("\n")[0]
        for each in (name, *aliases):
            _claim(_heads, each, builder)
            _heads[each] = HeadEntry(each, model, build, summary)  # type: ignore[arg-type]
        return builder

    return decorate


def register_trunk(name: str, *aliases: str) -> Callable[[T], T]:
    """Registers a trunk: a `TrunkFamily` subclass, or a module class or factory whose signature is its parameters.

    A plain module's features are its `features` attribute where it has one (a mapping from names to dotted module
    paths), every dotted module path, and `output`, its own result, which is the default.

    Raises:
        AlreadyRegistered: where another class holds the name.
    """

    def decorate(builder: T) -> T:
        for each in (name, *aliases):
            _claim(_trunks, each, builder)
            if isinstance(builder, type) and issubclass(builder, TrunkFamily):
                _trunks[each] = builder(each)
            else:
                _trunks[each] = PlainTrunk(each, builder)
        return builder

    return decorate


def _claim(table: dict[str, Any], name: str, builder: Any) -> None:
    """Lets the same class register again (a notebook cell run twice), and nobody else."""
    owner = f"{builder.__module__}.{builder.__qualname__}"
    held = _owners.get((id(table), name))
    if name in table and held != owner:
        raise AlreadyRegistered(f"`{name}` is registered already, by {held}")
    _owners[id(table), name] = owner


def head_names() -> list[str]:
    """Every registered head."""
    _load_all()
    return sorted(_heads)


def trunk_names() -> list[str]:
    """Every registered trunk family."""
    _load_all()
    return sorted(_trunks)


def find_head(name: str) -> HeadEntry | None:
    """The head of that name, or None."""
    _load_all()
    return _heads.get(name)


def find_trunk(name: str) -> TrunkFamily[Any] | None:
    """The family of that name; `timm:NAME` and `torchvision:NAME` give the library's model. None where unknown."""
    _load_all()
    family, colon, variant = name.partition(":")
    if colon and family in _trunks:
        return _trunks[family].bind(variant)
    return _trunks.get(name)


@cache
def _load_all() -> None:
    for package in ("heads", "trunks", "library"):
        parent = importlib.import_module(f"graphmodel.components.{package}")
        for module in pkgutil.iter_modules(parent.__path__, parent.__name__ + "."):
            importlib.import_module(module.name)
    for entry in metadata.entry_points(group="graphmodel.components"):
        try:
            entry.load()  # its decorators register what it has
        except Exception as error:  # one broken package must not take every spec down
            warnings.warn(f"heads and trunks of `{entry.value}` are missing: {error}", stacklevel=2)


# -- modules registered by their signature ---------------------------------------------------------------------------

_INFERRED = ("in_features", "in_channels", "in_dim")


class _SignatureParams(HeadParams):
    def infer(self, feature: TensorInfo) -> Any:
        names = [n for n in _INFERRED if n in type(self).model_fields]
        if not names:
            return self
        shape = feature.shape
        channels = shape[-1 if feature.layout == "nhwc" else 1] if len(shape) == 4 else None
        found = channels if isinstance(channels, int) else width(feature)
        return self.model_copy(update={n: match_width(getattr(self, n), found, (n,), feature) for n in names})


def _params_of(builder: Any, name: str, base: type[Any]) -> Any:
    target = builder.__init__ if inspect.isclass(builder) else builder
    try:
        hints = get_type_hints(target)
    except Exception:  # annotations that name what is not importable: the values go in unchecked
        hints = {}
    fields: dict[str, Any] = {}
    extra = "forbid"
    for key, parameter in inspect.signature(target).parameters.items():
        if key == "self" or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = "allow"
            continue
        annotation = hints.get(key, Any)
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        if base is HeadParams and key in _INFERRED and default is ...:
            annotation, default = annotation | Auto, "auto"
        fields[key] = (annotation, default)
    config = ConfigDict(extra=extra, frozen=True, arbitrary_types_allowed=True)  # type: ignore[typeddict-item]
    parent = _SignatureParams if base is HeadParams else None
    model = create_model(f"{name.title().replace('_', '')}Params", __base__=parent, **fields)
    model.model_config = {**model.model_config, **config}
    model.model_rebuild(force=True)
    return model


def _by_keywords(builder: Any) -> Callable[[Any], nn.Module]:
    def build(params: Any) -> nn.Module:
        module: nn.Module = builder(
            **{k: getattr(params, k) for k in {**type(params).model_fields, **(params.model_extra or {})}}
        )
        return module

    build.origin = builder  # type: ignore[attr-defined]
    return build


class PlainTrunk(TrunkFamily[Any], Generic[T]):
    """A module class or factory as a trunk: its signature is its parameters, its module paths are its features."""

    def __init__(self, name: str, origin: Any) -> None:
        super().__init__(name)
        self.origin = origin
        self.Params = _params_of(origin, name, object)  # type: ignore[misc]
        self.summary = (inspect.getdoc(origin) or "").partition("\n")[0]  # type: ignore[misc]

    def build(self, params: Any, input_type: str) -> nn.Module:
        return _by_keywords(self.origin)(params)

    def features(self, params: Any, trunk: nn.Module) -> list[Feature]:
        return features_of(trunk)

    def default(self, params: Any, trunk: nn.Module) -> str:
        return default_of(trunk)

    def normed(self, feature: Feature, params: Any, trunk: nn.Module, norm: bool) -> Feature | None:
        naming = naming_of(trunk)
        return naming.normed(feature, trunk, norm) if naming is not None else None
