"""Modules registered as they are: the signature of a class or factory gives its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model
from torch import nn

from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.head import Auto, HeadMismatch, HeadParams, match_width, vector_width
from graphmodel.components.library.modules import default_of, features_of, naming_of
from graphmodel.components.tensors import TensorInfo

T = TypeVar("T")

INFERRED = ("in_features", "in_channels", "in_dim")
"""Arguments of a head that are read from the feature if the spec leaves them out."""


class HeadSignature(HeadParams):
    """Base of the parameters of a head that was registered without a model of them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def infer(self, feature: TensorInfo) -> Any:
        names = [n for n in INFERRED if n in type(self).model_fields]
        if not names:
            return self
        found = _width(feature)
        return self.model_copy(update={n: match_width(getattr(self, n), found, (n,), feature) for n in names})

    def infer_all(self, features: Sequence[TensorInfo]) -> Any:
        """The same for a list of features: `in_channels` and the like become the list of their widths."""
        names = [n for n in INFERRED if n in type(self).model_fields]
        values = {n: getattr(self, n) for n in type(self).model_fields} | (self.model_extra or {})
        shapes = ", ".join(str(f) for f in features)
        for name in names:
            widths = [_width(f) for f in features]
            if values[name] == "auto":
                values[name] = widths
            elif isinstance(values[name], (list, tuple)) and list(values[name]) != widths:
                raise HeadMismatch(
                    f"wants {list(values[name])} and the features are {shapes}", (name,), f"write {widths}"
                )
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise HeadMismatch(
                f"reads a list of features ({shapes}) and its argument `{name}` takes one width",
                (name,),
                f"write `{name}`, or annotate it as a list to be given every width",
            ) from None


def _width(feature: TensorInfo) -> int:
    """The channels of a map, else what a linear layer would read."""
    shape = feature.shape
    channels = shape[-1 if feature.layout == "nhwc" else 1] if len(shape) in (4, 5) else None
    return channels if isinstance(channels, int) else vector_width(feature)


class OpenHeadSignature(HeadSignature):
    """The same for a head that takes `**kwargs`."""

    model_config = ConfigDict(extra="allow")


class TrunkSignature(TrunkParams):
    """Base of the parameters of a trunk that was registered without a model of them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


class OpenTrunkSignature(TrunkSignature):
    """The same for a trunk that takes `**kwargs`."""

    model_config = ConfigDict(extra="allow")


def head_params(builder: Any, name: str) -> type[HeadParams]:
    """A model of the parameters that the signature of a head's class or factory names."""
    fields, is_open = _fields(builder)
    for key in INFERRED:
        annotation, default = fields.get(key, (None, None))
        if default is ...:
            fields[key] = (annotation | Auto, "auto")
    return create_model(_model_name(name), __base__=OpenHeadSignature if is_open else HeadSignature, **fields)


def trunk_params(builder: Any, name: str) -> type[TrunkParams]:
    """A model of the parameters that the signature of a trunk's class or factory names."""
    fields, is_open = _fields(builder)
    return create_model(_model_name(name), __base__=OpenTrunkSignature if is_open else TrunkSignature, **fields)


def _model_name(name: str) -> str:
    return f"{name.title().replace('_', '')}Params"


def _fields(builder: Any) -> tuple[dict[str, Any], bool]:
    """Annotation and default of each argument, and whether there is a `**kwargs`."""
    is_class = inspect.isclass(builder)
    target = builder.__init__ if is_class else builder
    try:
        hints = get_type_hints(target)
    except Exception:  # annotations that name what cannot be imported: the values are passed on unchecked
        hints = {}
    fields: dict[str, Any] = {}
    is_open = False
    arguments = list(inspect.signature(target).parameters.items())
    if is_class and arguments and arguments[0][1].kind is not inspect.Parameter.VAR_POSITIONAL:
        del arguments[0]  # the module itself, whatever it is called
    for key, parameter in arguments:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[key] = (hints.get(key, Any), default)
    return fields, is_open


def by_keywords(builder: Any) -> Callable[[Any], nn.Module]:
    """Calls a class or factory with the values of validated parameters."""

    def build(params: Any) -> nn.Module:
        names = [*type(params).model_fields, *(params.model_extra or {})]
        module: nn.Module = builder(**{name: getattr(params, name) for name in names})
        return module

    build.origin = builder  # type: ignore[attr-defined]
    return build


class PlainTrunk(TrunkFamily[Any], Generic[T]):
    """A module class or factory as a trunk: its signature is its parameters, its module paths are its features."""

    def __init__(self, name: str, origin: Any) -> None:
        super().__init__(name)
        self.origin = origin
        self.Params = trunk_params(origin, name)  # type: ignore[misc]
        self.summary = (inspect.getdoc(origin) or "").partition("\n")[0]  # type: ignore[misc]

    def build(self, params: Any, input_type: str) -> nn.Module:
        return by_keywords(self.origin)(params)

    def features(self, params: Any, trunk: nn.Module) -> list[Feature]:
        return features_of(trunk)

    def default(self, params: Any, trunk: nn.Module) -> str:
        return default_of(trunk)

    def normed(self, feature: Feature, params: Any, trunk: nn.Module, norm: bool) -> Feature | None:
        naming = naming_of(trunk)
        return naming.normed(feature, trunk, norm) if naming is not None else None
