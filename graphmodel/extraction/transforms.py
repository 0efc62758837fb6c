"""What happens to an image file before the module: as the spec says, as timm says, or the default of ImageNet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from graphmodel.diagnostics import Diagnostic, fail, first_line
from graphmodel.graph.types import ModelGraph
from graphmodel.spec.model import InputSpec, TransformCall
from graphmodel.spec.transforms import TRANSFORMS

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CROP_RATIO = 0.875
"""The default resizes the shorter side to the size of the input divided by this, as 256 is to 224."""

_MODES = {1: "L", 3: "RGB"}
_WIDE = ("I", "F")
_OTHER_FLOATS = ("float16", "bfloat16", "float64")


@dataclass(frozen=True)
class ImageTransform:
    """From a PIL image to a tensor for one input, or a list of tensors for an input with views.

    Attributes:
        steps: a transform for each tensor.
        mode: the PIL mode.
        views: whether the input is a list.
        words: the transform in words, which says whether two are the same.
        is_default: whether the spec says nothing and a default is used.
    """

    steps: tuple[Callable[[Any], torch.Tensor], ...]
    mode: str
    views: bool
    words: str
    is_default: bool

    def __call__(self, image: Image.Image) -> torch.Tensor | list[torch.Tensor]:
        """Transforms an image."""
        converted = in_mode(image, self.mode)
        made = [step(converted) for step in self.steps]
        return made if self.views else made[0]


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image in a mode of 8 bits, as torchvision's `ImageFolder` converts it.

    Raises:
        ValueError: if it has values that 8 bits cannot hold, which Pillow would clip: all of a 16-bit image would be
            white, and all of an image of floats from 0 to 1 black.
    """
    if image.mode in _WIDE or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if not np.array_equal(values, np.clip(values, 0, 255).astype(np.uint8)):
            message = f"its values ({values.min():g} to {values.max():g}, mode {image.mode}) do not fit into 8 bits"
            raise ValueError(f"{message}; scale them to whole numbers from 0 to 255")
    return image.convert(mode)


def transforms_of(graph: ModelGraph) -> dict[str, ImageTransform]:
    """The transform of each input.

    Raises:
        CompileError: GM606 if an input does not take images, or a transform does not fit it.
    """
    return {name: _transform(graph, item) for name, item in graph.inputs.items()}


def default_notes(graph: ModelGraph, transforms: dict[str, ImageTransform]) -> list[Diagnostic]:
    """A note for each input whose transform is a default: GM610."""
    found = {name: each for name, each in transforms.items() if each.is_default}
    if graph.spec.dialect == "vissl":
        known = ", ".join(op.torchvision for op in TRANSFORMS.values())
        help = f"in `DATA.TEST.TRANSFORMS` of a VISSL file, all must be among {known}, with valid parameters"
        what = "the file has no `DATA.TEST.TRANSFORMS` that can be used for"
    else:
        help = "write it as `inputs.{}.transform` if the weights expect something else"
        what = "the spec has no `transform` for"
    return [
        Diagnostic(
            "GM610",
            f"{what} `{name}`; images are transformed with: {each.words}",
            graph.spec.span(graph.inputs[name].at),
            help.format(name),
            "note",
        )
        for name, each in found.items()
    ]


def _transform(graph: ModelGraph, item: InputSpec) -> ImageTransform:
    shapes = item.views or ((item.shape,) if item.shape is not None else ())
    span = graph.spec.span(item.at)
    if not shapes or any(len(shape) != 3 or shape[0] not in _MODES for shape in shapes):
        message = f"the input `{item.name}` cannot be made from an image: it takes {_shape_words(shapes)}"
        help = "call `graphmodel.extract(module, dataset, out)` with a dataset that makes it"
        raise fail("GM606", message, span, help)
    family = _timm_name(graph, item.name)
    given, is_default = item.transform, item.transform is None
    if given == "timm" and family is None:
        message = f"`transform: timm` needs a trunk of timm, and the trunk that reads `{item.name}` is another"
        raise fail("GM606", message, span, "write the transforms: [{resize: 256}, {center_crop: 224}, to_tensor]")
    made: dict[tuple[int, ...], tuple[Callable[[Any], torch.Tensor], str]] = {}
    for shape in shapes:
        if shape in made:
            continue
        try:
            if given == "timm" or (given is None and family is not None and _is_usual(shape, item.dtype)):
                if not _is_usual(shape, item.dtype):
                    raise ValueError(f"timm says how to make {_shape_words([(3, *shape[1:])])} floats")
                step, words = _timm(str(family), shape)
            else:
                calls = _default(shape, item.dtype) if given is None else given
                step, words = _steps(calls, item.dtype)
            if item.dtype in _OTHER_FLOATS:
                step, words = _Converted(step, item.dtype), f"{words}, to {item.dtype}"
            result = step(Image.new(_MODES[shape[0]], (shape[2] + 61, shape[1] + 40)))
        except Exception as error:  # torchvision, timm and Pillow raise many kinds of errors
            raise fail("GM606", f"the transform of `{item.name}` fails: {first_line(error)}", span) from error
        if tuple(result.shape) != tuple(shape):
            message = f"the transform of `{item.name}` makes {tuple(result.shape)}, and the input takes {tuple(shape)}"
            raise fail("GM606", message, span, f"end it with {{center_crop: {shape[1]}}}, or change the input's shape")
        made[shape] = step, words
    words = "; ".join(dict.fromkeys(words for _, words in made.values()))
    steps = tuple(made[shape][0] for shape in shapes)
    return ImageTransform(steps, _MODES[shapes[0][0]], item.views is not None, words, is_default)


@dataclass(frozen=True)
class _Converted:
    """A transform whose result has another dtype; a class, since workers receive it pickled."""

    step: Callable[[Any], torch.Tensor]
    dtype: str

    def __call__(self, image: Any) -> torch.Tensor:
        return self.step(image).to(getattr(torch, self.dtype))


def _is_usual(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether an input is an image of three channels of floats, which is what timm's values are for."""
    return shape[0] == 3 and dtype != "uint8"


def _default(shape: tuple[int, ...], dtype: str) -> tuple[TransformCall, ...]:
    channels, height, width = shape
    size = round(min(height, width) / CROP_RATIO)
    values = IMAGENET if channels == 3 else {"mean": (0.5,), "std": (0.5,)}
    calls = [
        TransformCall(name="resize", params={"size": size}),
        TransformCall(name="center_crop", params={"size": height}),
    ]
    if height != width:
        calls = [TransformCall(name="resize", params={"size": (height, width)})]
    return (*calls, *([] if dtype == "uint8" else [TransformCall(name="normalize", params=values)]))


def _steps(calls: tuple[TransformCall, ...], dtype: str) -> tuple[Callable[[Any], torch.Tensor], str]:
    """The steps as torchvision's; the image becomes a tensor where they say so, or else where it must."""
    from torchvision import transforms

    steps: list[Any] = []
    words: list[str] = []
    names = [call.name for call in calls]
    if "to_tensor" not in names:
        at = names.index("normalize") if "normalize" in names else len(names)
        calls = (*calls[:at], TransformCall(name="to_tensor"), *calls[at:])
    for call in calls:
        params = dict(call.params)
        if call.name == "to_tensor" and dtype == "uint8":
            steps.append(transforms.PILToTensor())
            words.append("to_tensor (uint8)")
            continue
        if "interpolation" in params:
            params["interpolation"] = transforms.InterpolationMode(params["interpolation"])
        steps.append(getattr(transforms, TRANSFORMS[call.name].torchvision)(**params))
        shown = {k: list(v) if isinstance(v, tuple) else v for k, v in call.params.items()}
        words.append(f"{call.name} {json.dumps(shown)}" if shown else call.name)
    return transforms.Compose(steps), ", ".join(words)


def _timm(name: str, shape: tuple[int, ...]) -> tuple[Callable[[Any], torch.Tensor], str]:
    import timm.data
    from timm.models import get_pretrained_cfg

    data: Any = timm.data  # without types
    found: Any = get_pretrained_cfg(name)
    config = data.resolve_data_config({"input_size": tuple(shape)}, pretrained_cfg=found.to_dict() if found else {})
    kept = {k: config[k] for k in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    step = data.create_transform(**kept, is_training=False)
    shown = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
    return step, f"timm {json.dumps(shown)}"


def _timm_name(graph: ModelGraph, name: str) -> str | None:
    """The model of timm that reads an input, if one does."""
    trunks = {s.trunk for edge in graph.spec.edges for s in edge.sources if s.input == name}
    found = [graph.spec.trunks[t] for t in trunks if t is not None]
    families = {trunk.family.removeprefix("timm:") for trunk in found if trunk.family.startswith("timm:")}
    return families.pop() if len(families) == 1 else None


def _shape_words(shapes: Any) -> str:
    return " or ".join("×".join(map(str, shape)) for shape in dict.fromkeys(shapes)) or "tensors of any shape"
