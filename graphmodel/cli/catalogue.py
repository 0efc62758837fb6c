"""What trunks and heads there are, as data: their features at a size, their parameters."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Union

import torch
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from graphmodel.components.base import Feature, TensorInfo, TrunkFamily
from graphmodel.components.construct import build_on_meta
from graphmodel.graph.trace import TraceError, open_trunk
from graphmodel.graph.values import Writer
from graphmodel.spec.document import fail

SIZES = (224, 256, 384, 299, 518, 448, 192, 240, 336)
"""Image sizes that are tried in turn where a trunk does not say its own."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a trunk or head."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True)
class FeatureRow:
    """A feature of a trunk on one image size.

    Attributes:
        name: what specs call it.
        aliases: further names.
        default: it is read where the spec names none.
        shape: for one batch of N images.
        layout: how its dimensions are arranged.
        channels: its width.
        stride: input pixels per step, for feature maps.
    """

    name: str
    aliases: tuple[str, ...]
    default: bool
    shape: str
    layout: str
    channels: int | None
    stride: int | None


def parameters(model: type[BaseModel]) -> list[Parameter]:
    """The parameters of a Pydantic model in order."""
    rows = []
    for name, info in model.model_fields.items():
        default: Any = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        rows.append(
            Parameter(
                info.alias or name,
                type_text(info.annotation),
                "required" if default is PydanticUndefined else _default(default),
                info.description or "",
            )
        )
    return rows


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else repr(value)


def type_text(annotation: Any) -> str:
    """An annotation in words that a YAML author knows: `number`, `list of integer`, `18 | 34`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " | ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(a) for a in arguments))
    if origin in (list, tuple, set, frozenset) or annotation in (list, tuple):
        inner = [type_text(a) for a in arguments if a is not ...]
        return f"list of {' or '.join(dict.fromkeys(inner))}" if inner else "list"
    if origin is dict or annotation is dict:
        return "mapping"
    if annotation is type(None):
        return "none"
    names = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return names.get(annotation, "anything" if annotation is Any else getattr(annotation, "__name__", str(annotation)))


@dataclass(frozen=True)
class TrunkPage:
    """A trunk with its parameters set: what `graphmodel trunks NAME` shows."""

    name: str
    summary: str
    source: str
    input: tuple[int, ...]
    parameters: int
    options: list[Parameter]
    features: list[FeatureRow]

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return {
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            "input": list(self.input),
            "parameter_count": self.parameters,
            "parameters": [asdict(p) for p in self.options],
            "features": [{**asdict(f), "aliases": list(f.aliases)} for f in self.features],
        }


def trunk_page(
    name: str, family: TrunkFamily[Any], given: dict[str, Any], shape: tuple[int, ...] | None = None
) -> TrunkPage:
    """Builds a trunk on the meta device and runs it.

    Args:
        name: what the user called it.
        family: its family.
        given: parameters, the others at their defaults.
        shape: per-sample input shape; the trunk's own, or 3x224x224, where None.

    Raises:
        CompileError: GM202 where the parameters are wrong, GM302 where it cannot be built, GM303 where it cannot run.
    """
    try:
        params = family.Params.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise fail("GM202", f"`{name}`: `{where}`: {first['msg']}", help=_names(family)) from None
    try:
        module = build_on_meta(lambda: family.build(params, "rgb"))
    except Exception as error:  # whatever a constructor refuses
        raise fail("GM302", f"the trunk `{name}` cannot be built: {error}") from None
    features = list(family.features(params, module))
    default = family.default(params, module)
    found: dict[str, TensorInfo] = {}
    problem = ""
    for size in [shape] if shape is not None else _sizes(module):
        problem = family.check_input(params, size, module) or ""
        if problem:
            continue
        try:
            found = run_features(module, features, size)
        except TraceError as error:
            problem = problem or str(error)
            continue
        shape = size
        break
    if not found or shape is None:
        raise fail("GM303", f"the trunk `{name}` cannot run: {problem}", help="give a size with --input 3x224x224")
    return TrunkPage(
        name,
        family.summary,
        family.source,
        shape,
        sum(p.numel() for p in module.parameters()),
        parameters(family.Params),
        [_row(f, found[f.name], default, shape) for f in features if f.name in found],
    )


def _names(family: TrunkFamily[Any]) -> str:
    return f"parameters: {', '.join(family.Params.model_fields)}"


def _sizes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Input shapes to try: timm's own first."""
    config = getattr(module, "default_cfg", None) or {}
    own = tuple(config.get("input_size") or ())
    return [own, *((3, s, s) for s in SIZES)] if own else [(3, s, s) for s in SIZES]


def run_features(module: torch.nn.Module, features: Sequence[Feature], shape: tuple[int, ...]) -> dict[str, TensorInfo]:
    """The shape of each feature; those that cannot be run together with the others are run alone or left out.

    Raises:
        TraceError: where none can be run.
    """
    pair = tuple(torch.empty((b, *shape), device="meta") for b in (2, 3))
    writer = Writer((2, 3), [])

    def run(wanted: Sequence[Feature]) -> dict[str, TensorInfo]:
        opened = open_trunk(module, wanted, {"x": (pair[0], pair[1])})
        infos = {name: writer.info(node.meta["values"]) for name, node in opened.features.items()}
        return {name: info for name, info in infos.items() if isinstance(info, TensorInfo)}

    try:
        return run(features)
    except TraceError as error:
        found: dict[str, TensorInfo] = {}
        for feature in features:
            try:
                found |= run([feature])
            except TraceError:
                continue
        if not found:
            raise error
        return found


def _row(feature: Feature, info: TensorInfo, default: str, shape: tuple[int, ...]) -> FeatureRow:
    sizes = info.sample
    layout: str = feature.layout
    channels = stride = None
    if layout == "nchw" and len(sizes) == 3:
        channels, stride = sizes[0], round(shape[1] / sizes[1])
    elif layout == "nhwc" and len(sizes) == 3:
        channels, stride = sizes[2], round(shape[1] / sizes[0])
    elif sizes and layout in ("nlc", "nc"):
        channels = sizes[-1]
    return FeatureRow(feature.name, feature.aliases, feature.name == default, str(info), layout, channels, stride)
