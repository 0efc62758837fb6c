"""Layers of torch, torchvision and timm as heads, by the name of their class: `torch.nn:Conv2d`."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, create_model
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, match_width
from graphmodel.components.library.layer_names import PACKAGES, InvalidLayer, classes, layer_class
from graphmodel.components.registry import HeadEntry
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import choices_help
from graphmodel.spec.document import Document
from graphmodel.spec.fields import Bool, Int
from graphmodel.spec.validate import diagnose

CHANNELS = ("in_channels", "in_chs", "in_chans", "num_channels", "num_features", "channels")
"""Arguments that are the number of channels: the dimension after the batch."""
WIDTHS = ("in_features", "in_dim", "embed_dim", "d_model", "dim", "input_size", "normalized_shape")
"""Arguments that are the width of vectors and tokens: the last dimension; of maps the channels."""
COUNTS = ("num_layers", "depth")
"""Arguments that are a number of layers, which a constructor makes one by one."""
MAX_COUNT = 1000
"""The most that one of them may be: building a billion layers would take hours."""
LISTS = ("in_channels_list",)
"""Arguments that are the channels of each of several features."""
NEEDED = ("Softmax", "Softmin", "LogSoftmax")
"""Classes whose `dim` is needed: without it torch takes the batch of some inputs."""
_TOKENS = "read the tokens of a transformer, or make tokens of a map (`layout: nlc`)"
_OWN = "a head of your own is registered by its module: `--import MODULE`"


class LayerParams(HeadParams):
    """Base of the parameters of layers: the arguments of the class; those that are widths are inferred."""

    model_config = ConfigDict(protected_namespaces=())
    inferred: ClassVar[tuple[str, ...]] = ()
    """The arguments that are inferred from what the layer reads."""
    sequences_first: ClassVar[bool] = False
    """Whether the channels of sequences come after the batch, as `nn.Conv1d` reads them."""
    nested: ClassVar[tuple[str, ...]] = ()
    """The arguments that are layers, written as heads are."""

    def infer(self, feature: TensorInfo) -> Self:
        widths: dict[str, Any] = {}
        if "batch_first" in type(self).model_fields and len(feature.shape) != 3:
            # torch would take the samples of `(N, C)` for the steps of one sequence.
            raise HeadMismatch(f"wants a sequence of tokens and the feature is {feature}", (), _TOKENS)
        if self.reads == "tensor":  # a layer inside of this one is taken to read what this one reads
            widths |= {name: _inferred(written, feature) for name in self.nested if (written := getattr(self, name))}
        for name in self.inferred:
            if name in LISTS:
                widths |= self.list_of_widths(name, [feature])
            elif name in CHANNELS or name in WIDTHS:
                widths[name] = self.width(name, feature)
        return self.model_copy(update=widths)

    def infer_all(self, features: Sequence[TensorInfo]) -> Self:
        widths: dict[str, Any] = {}
        for name in self.inferred:
            if name in LISTS:
                widths |= self.list_of_widths(name, features)
                continue
            found = {self.size(name, feature) for feature in features}
            if len(found) > 1:
                listed = ", ".join(str(f) for f in features)
                raise HeadMismatch(f"reads several features ({listed}) and its argument `{name}` is one width", (name,))
            widths[name] = self.width(name, features[0])
        return self.model_copy(update=widths)

    def infer_named(self, features: Mapping[str, TensorInfo]) -> Self:
        own = {f"{key}_channels": feature for key, feature in features.items()}
        named = {n: f for n, f in own.items() if n in self.inferred}
        for name in self.inferred:
            key = name.removesuffix("_channels")
            if name not in LISTS and name not in CHANNELS and name not in WIDTHS and name not in named:
                help = f"name one of the features so: `{{from: …, as: {key}}}`"
                raise HeadMismatch(f"reads a feature `{key}`, and there are {', '.join(features)}", (name,), help)
        params = self.model_copy(update={name: self.width(name, f) for name, f in named.items()})
        return params if named else params.infer_all(list(features.values()))

    def width(self, name: str, feature: TensorInfo) -> Any:
        """The value of an argument that is the width of a feature."""
        written, found = getattr(self, name), self.size(name, feature)
        if isinstance(written, (list, tuple)):  # `normalized_shape: [7, 7]` is more than a width
            return written
        return match_width(written, found, (name,), feature)

    def list_of_widths(self, name: str, features: Sequence[TensorInfo]) -> dict[str, Any]:
        """The value of an argument that is the widths of several features."""
        written, found = getattr(self, name), [self.size(name, feature) for feature in features]
        if written != "auto" and list(written) != found:
            listed = ", ".join(str(f) for f in features)
            raise HeadMismatch(f"wants {list(written)} and the features are {listed}", (name,), f"write {found}")
        return {name: found}

    def size(self, name: str, feature: TensorInfo) -> int:
        """The dimension of a feature that an argument is about."""
        shape = feature.shape
        if name in WIDTHS and self.sequences_first and len(shape) > 3 and feature.layout != "nhwc":
            help = "pool and flatten it (`pool: {adaptive_avg_pool2d: 1}, flatten: true`), or write `layout: nlc`"
            raise HeadMismatch(f"wants vectors or tokens and the feature is {feature}", (), help)
        if len(shape) < 2:
            raise HeadMismatch(f"wants a feature with channels and reads {feature}", (name,), f"write `{name}`")
        of_tokens = len(shape) == 3 and (name in WIDTHS or not self.sequences_first)
        found = shape[-1 if of_tokens or feature.layout == "nhwc" else 1]
        if not isinstance(found, int):
            raise HeadMismatch(f"cannot infer `{name}` from {feature}", (name,), f"write `{name}`")
        return found


def find_layer(name: str) -> HeadEntry:
    """The layer `PACKAGE:CLASS` as a head.

    Example:
        >>> find_layer("torch.nn:Conv2d").name
        'torch.nn:Conv2d'

    Raises:
        InvalidLayer: if it cannot be one.
    """
    layer = layer_class(name)
    return HeadEntry(name, _params(name), _builder(layer), (inspect.getdoc(layer) or "").partition("\n")[0])


# -- parameters --------------------------------------------------------------------------------------------------------


@cache
def _params(name: str, is_nested: bool = False) -> type[LayerParams]:
    """A model of the arguments of a class.

    Args:
        name: the class.
        is_nested: whether it is an argument of another layer, which calls it.

    Raises:
        InvalidLayer: if YAML cannot give them, or its forward is not that of a head.
    """
    layer = layer_class(name)
    reads = "tensor" if is_nested else _reads(layer, name)
    fields: dict[str, Any] = {}
    inferred: list[str] = []
    nested: list[str] = []
    init = _init(layer)
    keywords = list(inspect.signature(init).parameters.values())[1:] if init is not object.__init__ else []
    hints = _hints(init)
    for each in keywords:
        if each.kind is each.VAR_KEYWORD or each.name in _not_given(layer):
            continue
        annotation = _readable(hints.get(each.name, Any))
        if _is_module(hints.get(each.name)):
            nested.append(each.name)
        if each.name == "batch_first":
            fields[each.name] = (Annotated[Bool, AfterValidator(_is_first)], True)
            continue
        if each.name in COUNTS and annotation is not None:
            annotation = Annotated[annotation, Field(le=MAX_COUNT)]
        if each.default is not each.empty and not (each.name == "dim" and layer.__name__ in NEEDED):
            fields[each.name] = _optional(annotation, each.default)
        elif annotation is None:
            message = f"`{name}` needs an object as its argument `{each.name}`, which a spec cannot give"
            raise InvalidLayer(message, _OWN)
        elif _is_width(each.name, layer, reads, inferred):
            inferred.append(each.name)
            fields[each.name] = (annotation if annotation is Any else annotation | Auto, "auto")
        else:
            fields[each.name] = (annotation, ...)
    is_open = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in keywords)
    facts: dict[str, Any] = {"reads": reads, "inferred": tuple(inferred), "nested": tuple(nested)}
    facts |= {"sequences_first": layer.__module__.startswith("torch.")}
    config = ConfigDict(extra="allow" if is_open else "forbid")
    base = type("LayerParams", (LayerParams,), {**facts, "model_config": config, "__module__": __name__})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument may have the name of an attribute of Pydantic's models
        return create_model(f"{layer.__name__}Params", __base__=base, **fields)


def _init(layer: type[nn.Module]) -> Any:
    """The constructor that has the arguments, if that of the class only passes them on (`nn.LSTM`)."""
    passing = inspect.Parameter.VAR_POSITIONAL
    found = (c.__dict__["__init__"] for c in layer.__mro__ if "__init__" in c.__dict__)
    own = (f for f in found if all(p.kind is not passing for p in inspect.signature(f).parameters.values()))
    return next(own, object.__init__)


def _not_given(layer: type[nn.Module]) -> tuple[str, ...]:
    """Arguments that are not the spec's: where and how the weights are made, and what kind of RNN it is."""
    return ("device", "dtype", "mode") if issubclass(layer, nn.RNNBase) else ("device", "dtype")


def _optional(annotation: Any, default: Any) -> tuple[Any, Any]:
    """The type and default of an argument that has one; a class or function as default is not written out."""
    if not _is_plain(default):
        return annotation, None
    if get_origin(annotation) is list and isinstance(default, tuple):
        return annotation, list(default)
    return (annotation if default is not None or annotation in (Any, None) else annotation | None), default


def _is_width(name: str, layer: type[nn.Module], reads: str, inferred: Sequence[str]) -> bool:
    """Whether an argument is the width of what the layer reads; there is one such argument, or one for each feature."""
    if reads == "dict" and name.endswith("_channels") and not name.startswith(("out_", "inter_", "mid_", "hidden_")):
        return True
    if name == "dim" and not layer.__module__.startswith("timm."):  # torch's layers call an axis so
        return False
    return not inferred and name in (*CHANNELS, *WIDTHS, *LISTS)


def _reads(layer: type[nn.Module], name: str) -> Literal["tensor", "list", "dict"]:
    """How a class takes what it reads.

    Raises:
        InvalidLayer: if its forward does not take one value.
    """
    if layer.__init__ is not nn.Module.__init__ and issubclass(layer, nn.modules.lazy.LazyModuleMixin):
        raise InvalidLayer(f"`{name}` is a lazy layer", f"write `{name.replace(':Lazy', ':')}`: widths are inferred")
    forward = layer.forward
    if forward is nn.Module.forward or layer in (nn.Sequential,):
        help = "for modules one after the other, write a list of them"
        raise InvalidLayer(f"`{name}` computes nothing itself", help)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p for p in list(inspect.signature(forward).parameters.values())[1:] if p.kind in positional]
    needed = [p.name for p in taken if p.default is p.empty]
    if len(needed) > 1:
        listed = ", ".join(f"`{n}`" for n in needed)
        raise InvalidLayer(f"`{name}` takes {len(needed)} values ({listed}), and a head reads one", _OWN)
    if not taken:
        return "tensor"
    annotation = _hints(forward).get(taken[0].name)
    origin = get_origin(annotation)
    if origin is dict or annotation in (dict, collections.OrderedDict):
        return "dict"
    return "list" if origin in (list, tuple, collections.abc.Sequence) or annotation is list else "tensor"


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations that name what cannot be imported
        return {}


def _is_plain(value: Any) -> bool:
    """Whether YAML can say a value."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _checked_reference(value: str) -> str:
    if ":" in value:
        try:
            layer_class(value)
        except InvalidLayer as error:
            raise ValueError(f"{error}; help: {error.help}") from None
    return value


def _only_reference(value: str) -> str:
    if ":" not in value:
        raise ValueError(f"`{value}` is not a layer; help: write its package and class, such as `torch.nn:ReLU`")
    return _checked_reference(value)


_Reference = Annotated[str, AfterValidator(_checked_reference)]
_OnlyReference = Annotated[str, AfterValidator(_only_reference)]


def _is_first(value: bool) -> bool:
    if not value:
        raise ValueError("is false, and features have the batch first; help: leave it out")
    return value


def _is_module(annotation: Any) -> bool:
    """Whether an argument is a layer, or a layer or nothing."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return any(inspect.isclass(m) and issubclass(m, nn.Module) for m in members)


def _nested(kind: type[nn.Module]) -> Any:
    """A layer that is an argument of another, as YAML gives it: a name, or a name and its parameters."""

    def checked(value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, dict) and len(value) != 1:
            raise ValueError("names several layers; help: write one name and its parameters")
        name, values = next(iter(value.items())) if isinstance(value, dict) else (value, {})
        try:
            layer = layer_class(name)
            if not issubclass(layer, kind):
                fitting = [f"{p}:{n}" for p in PACKAGES for n, c in classes(p).items() if issubclass(c, kind)]
                raise InvalidLayer(f"`{name}` is not a `{kind.__name__}`", choices_help(name, fitting))
            _named(value)
        except InvalidLayer as error:
            raise ValueError(f"{error}; help: {error.help}") from None
        except ValidationError as error:
            found = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
            said = diagnose(found, _params(name, True), Document({name: values}), (name,))
            raise ValueError(f"{said.message}; help: {said.help}") from None
        return value

    return Annotated[str | dict[str, Any], AfterValidator(checked)]


def _named(value: str | dict[str, Any]) -> tuple[str, LayerParams]:
    """The name and the parameters of a layer that is an argument of another."""
    name, values = next(iter(value.items())) if isinstance(value, dict) else (value, {})
    return name, _params(name, True).model_validate(values or {})


def _inferred(value: str | dict[str, Any], feature: TensorInfo) -> dict[str, Any]:
    """A layer that is an argument of another, with its widths."""
    name, params = _named(value)
    try:
        found = params.infer(feature)
    except HeadMismatch as error:
        raise HeadMismatch(f"{error.message} (`{name}`)", (), error.help) from None
    return {name: {field: getattr(found, field) for field in (*found.model_fields_set, *found.inferred)}}


def _made(value: str | dict[str, Any]) -> nn.Module:
    """The layer that is an argument of another."""
    name, params = _named(value)
    missing = next((field for field in params.inferred if getattr(params, field) == "auto"), None)
    if missing is not None:
        raise HeadMismatch(f"cannot infer `{missing}` of `{name}`", (), f"write `{missing}`")
    made: nn.Module = _builder(layer_class(name))(params)
    return made


def _readable(annotation: Any, alone: bool = True) -> Any:
    """An annotation as what YAML can give for it; None if it can give nothing.

    A class or a function that makes a module is given by name (`torch.nn:ReLU`).
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty, object):
        return Any
    simple: dict[Any, Any] = {bool: Bool, int: Int, float: Annotated[float, Field(strict=True)], str: str}
    if annotation in simple:
        return simple[annotation]
    if origin is Annotated:
        return _readable(arguments[0], alone)
    if origin is Literal or annotation is type(None):
        return annotation
    if origin in (Union, types.UnionType):
        members = [m for a in arguments if (m := _readable(a, alone=str not in arguments)) is not None]
        if str in members and _Reference in members:
            members.remove(str)
        return reduce(or_, dict.fromkeys(members)) if any(m is not type(None) for m in members) else None
    if origin in (collections.abc.Callable, type) or annotation in (collections.abc.Callable, typing.Callable, type):
        return _OnlyReference if alone else _Reference
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable) or annotation is list:
        inner = _readable(arguments[0]) if arguments else Any
        return None if inner is None else types.GenericAlias(list, (inner,))
    if origin is tuple:
        inside = [a if a is ... else _readable(a) for a in arguments]
        return None if None in inside else types.GenericAlias(tuple, tuple(inside))
    if origin is dict or annotation is dict:
        return dict[str, Any]
    if _is_module(annotation):
        return _nested(annotation)
    return None if inspect.isclass(annotation) else Any


def _builder(layer: type[nn.Module]) -> Any:
    """Makes the layer of validated parameters."""

    def build(params: LayerParams) -> nn.Module:
        written = (*params.model_fields_set, "batch_first")  # torch's default has the batch second
        given = {name: getattr(params, name) for name in type(params).model_fields if name in written}
        made = {name: _made(given[name]) for name in params.nested if given.get(name)}
        return layer(**{name: _value(v) for name, v in {**given, **(params.model_extra or {}), **made}.items()})

    build.origin = layer  # type: ignore[attr-defined]
    return build


def _value(value: Any) -> Any:
    """A value with the classes that it names."""
    if isinstance(value, str) and value.partition(":")[0] in PACKAGES and ":" in value:
        return layer_class(value)
    return value
