"""The available trunks and heads, as data: their features at an image size, their parameters."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Union

import torch
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from graphmodel.build.describe import FeatureDescription, describe
from graphmodel.components.construct import build_on_meta
from graphmodel.components.family import TrunkFamily
from graphmodel.components.library.layer_names import PACKAGES
from graphmodel.components.registry import HeadEntry, find_head, find_trunk, head_names, trunk_names
from graphmodel.diagnostics import fail
from graphmodel.tracing.errors import TraceError

SIZES = (224, 256, 384, 299, 518, 448, 192, 240, 336)
"""Image sizes that are tried in turn if a trunk does not state its own, with three channels and with one."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a trunk or head.

    Attributes:
        name: its key.
        type: what it takes, in the terms of a YAML author.
        required: it has no default.
        default: its default as JSON has it.
        description: what it means.
    """

    name: str
    type: str
    required: bool
    default: Any
    description: str


@dataclass(frozen=True)
class FeatureRow:
    """A feature of a trunk at one image size.

    Attributes:
        name: what specs call it.
        aliases: further names.
        default: it is read if the spec names none.
        shape: for one batch of N images.
        layout: how its dimensions are arranged, with the number of prefix tokens.
        channels: its width.
        stride: input pixels per step, for feature maps and tokens on a grid.
        module: the path of the module that produces it.
        disagrees: differences between the library's published metadata and the measured feature.
    """

    name: str
    aliases: tuple[str, ...]
    default: bool
    shape: str
    layout: str
    channels: int | None
    stride: int | None
    module: str = ""
    disagrees: tuple[str, ...] = ()


def parameters(model: type[BaseModel]) -> list[Parameter]:
    """The parameters of a Pydantic model in order."""
    rows = []
    for name, info in model.model_fields.items():
        default: Any = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        rows.append(
            Parameter(
                info.alias or name,
                type_text(info.annotation),
                default is PydanticUndefined,
                None if default is PydanticUndefined else _json(default),
                info.description or "",
            )
        )
    return rows


def library_parameters(family: TrunkFamily[Any]) -> list[Parameter]:
    """The keyword arguments of a library's model; only the library knows their types and meanings."""
    found = family.keywords().items()
    return [Parameter(name, "anything", False, _json(default), "") for name, default in found]


def head_rows() -> list[dict[str, Any]]:
    """Every registered head: its name, aliases, summary and parameters."""
    groups: dict[Any, dict[str, Any]] = {}
    for name in head_names():
        entry = find_head(name)
        assert entry is not None
        key = getattr(entry.build, "origin", entry.build)
        if key in groups:
            groups[key]["aliases"].append(name)
        else:
            groups[key] = head_row(entry)
    return list(groups.values())


def head_row(entry: HeadEntry) -> dict[str, Any]:
    """A head's name, summary and parameters."""
    own = [asdict(p) for p in parameters(entry.params)]
    return {"name": entry.name, "aliases": [], "summary": entry.summary, "parameters": own}


def trunk_rows() -> list[dict[str, Any]]:
    """Every registered family of trunks: its name, aliases, summary, source, and whether its models have names."""
    rows: dict[str, dict[str, Any]] = {}
    families: dict[str, type] = {}
    for name in trunk_names():
        family = find_trunk(name)
        assert family is not None
        # `regnet_fsdp` and the like are VISSL's second names for one model; `alexnet_jigsaw` is a model of its own.
        first = next((n for n in rows if name.startswith(f"{n}_") and families[n] is type(family)), None)
        if first is not None:
            rows[first]["aliases"].append(name)
            continue
        families[name] = type(family)
        library = family.variants() is not None
        rows[name] = {
            "name": name,
            "aliases": [],
            "summary": family.summary,
            "source": family.source,
            "library": library,
        }
    return list(rows.values())


def document() -> dict[str, Any]:
    """Heads, the packages whose layers are heads, and trunks: what `schemas/catalogue.json` holds, and this process."""
    return {"heads": head_rows(), "layers": list(PACKAGES), "trunks": trunk_rows()}


def _json(value: Any) -> Any:
    """A default as JSON has it; text for what JSON does not have."""
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)


def type_text(annotation: Any) -> str:
    """An annotation in the terms of a YAML author: `number`, `list of integer`, `18 | 34`."""
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
    """What `graphmodel trunks NAME` shows.

    Attributes:
        name: what the user called it.
        summary: one line.
        source: the library's module.
        options: its parameters.
        needed: the parameters without which the trunk cannot be built; if there are any, it was not built.
        input: the per-sample shape it ran on.
        parameters: how many it has, its own classifier included.
        features: its features on that input.
    """

    name: str
    summary: str
    source: str
    options: list[Parameter]
    needed: str = ""
    input: tuple[int, ...] = ()
    parameters: int = 0
    features: list[FeatureRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return {
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            "input": list(self.input) or None,
            "parameter_count": self.parameters or None,
            "needed": self.needed or None,
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
        shape: per-sample input shape; None means the trunk's own, or 3x224x224.

    Raises:
        CompileError: GM202 if the parameters are wrong, GM302 if it cannot be built, GM303 if it cannot run.
    """
    options = parameters(family.Params) or library_parameters(family)
    try:
        params = family.Params.model_validate(given)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if not given:
            return TrunkPage(name, family.summary, family.source, options, _needed(errors))
        where = "".join(f"`{p}`: " for p in errors[0]["loc"])
        raise fail("GM202", f"`{name}`: {where}{errors[0]['msg']}", help=_names(family)) from None
    module = _built(name, family, params)
    features = list(family.features(params, module))
    default = family.default(params, module)
    found: list[FeatureDescription] = []
    problem = ""
    for size in [shape] if shape is not None else _sizes(module):
        problem = family.check_input(params, size, module) or ""
        if problem:
            continue
        try:
            found = describe(module, features, size)
        except TraceError as error:
            problem = problem or str(error)
            continue
        shape = size
        break
    if not found or shape is None:
        raise fail("GM303", f"the trunk `{name}` cannot run: {problem}", help="give a size with --input 3x224x224")
    count = sum(p.numel() for p in module.parameters())
    rows = [_row(f, default) for f in found]
    return TrunkPage(name, family.summary, family.source, options, "", shape, count, rows)


def _needed(errors: Sequence[Any]) -> str:
    """What a trunk cannot do without, of the errors that its parameters give when nothing is set."""
    missing = [f"`{e['loc'][0]}`" for e in errors if e["type"] == "missing"]
    others = [str(e["msg"]).removeprefix("Value error, ") for e in errors if e["type"] != "missing"]
    return "; ".join([*([f"it needs {', '.join(missing)}"] if missing else []), *others])


def _built(name: str, family: TrunkFamily[Any], params: Any) -> torch.nn.Module:
    """The trunk on the meta device; one that accepts only luminance is built for that."""
    problem: Exception | None = None
    for kind in ("rgb", "lab"):
        try:
            return build_on_meta(lambda kind=kind: family.pretrained(params, kind, False))  # type: ignore[misc]
        except Exception as error:  # a constructor may raise anything
            problem = problem or error
    raise fail("GM302", f"the trunk `{name}` cannot be built: {problem}") from None


def _names(family: TrunkFamily[Any]) -> str:
    return f"parameters: {', '.join(family.Params.model_fields)}"


def _sizes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Input shapes to try: timm's own first, and a clip for a video model."""
    from graphmodel.components.library.torchvision_video import NAMING  # torchvision takes long to import

    video = NAMING.row_of(module)
    if video is not None:
        return [video.clip]
    config = getattr(module, "default_cfg", None) or {}
    own = tuple(config.get("input_size") or ())
    sizes = [(channels, size, size) for channels in (3, 1) for size in SIZES]
    return [own, *sizes] if own else [*sizes]


def _row(feature: FeatureDescription, default: str) -> FeatureRow:
    layout = feature.layout.layout + (f", {feature.layout.prefix} prefix" if feature.layout.prefix else "")
    return FeatureRow(
        feature.name,
        feature.aliases,
        feature.name == default,
        str(feature.shape),
        layout,
        feature.channels,
        feature.stride,
        feature.module,
        feature.disagrees,
    )
