"""The image transforms that a spec may name, and their parameters; all of them are deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
PIL_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, which VISSL's files may use."""


@dataclass(frozen=True)
class TransformOp:
    """A transform of torchvision.

    Attributes:
        name: its name in specs.
        torchvision: its name in `torchvision.transforms`, which is also its name in VISSL's configurations.
        required: parameters that must be given; a value that is not a mapping is the first of them.
        optional: parameters that may be given.
        example: how it is written.
    """

    name: str
    torchvision: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    example: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """All of its parameters."""
        return self.required + self.optional


_OPS = (
    TransformOp("resize", "Resize", ("size",), ("interpolation", "max_size", "antialias"), "{resize: 256}"),
    TransformOp("center_crop", "CenterCrop", ("size",), (), "{center_crop: 224}"),
    TransformOp("pad", "Pad", ("padding",), ("fill", "padding_mode"), "{pad: 4}"),
    TransformOp("grayscale", "Grayscale", (), ("num_output_channels",), "{grayscale: {num_output_channels: 3}}"),
    TransformOp("to_tensor", "ToTensor", (), (), "to_tensor"),
    TransformOp("normalize", "Normalize", ("mean", "std"), (), "{normalize: {mean: [0.5], std: [0.5]}}"),
)

TRANSFORMS: dict[str, TransformOp] = {op.name: op for op in _OPS}
"""Transforms by name."""


def parameter_problem(name: str, value: Any) -> str | None:
    """What is wrong with the value of a parameter, after its name; None if nothing is."""
    if name in ("size", "padding", "max_size", "num_output_channels"):
        items = value if isinstance(value, (list, tuple)) and name in ("size", "padding") else [value]
        least = 0 if name == "padding" else 1
        if not items or not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in items):
            return (
                "takes a whole number, or a list of two (height, width)" if name == "size" else "takes a whole number"
            )
    elif name in ("mean", "std", "fill"):
        items = value if isinstance(value, (list, tuple)) else [value]
        if (name != "fill" and items is not value) or not all(_is_number(v) for v in items) or not items:
            return "takes a list of numbers, one for each channel"
        if name == "std" and any(v == 0 for v in items):
            return "divides by zero"
    elif name == "interpolation" and value not in INTERPOLATIONS:
        return f"is one of {', '.join(INTERPOLATIONS)}"
    elif name == "antialias" and not isinstance(value, bool):
        return "is true or false"
    elif name == "padding_mode" and value not in ("constant", "edge", "reflect", "symmetric"):
        return "is one of constant, edge, reflect, symmetric"
    return None


def from_vissl(item: Any) -> Mapping[str, Any] | None:
    """The native form of an entry of VISSL's `TRANSFORMS`; None if it is not one of ours."""
    if not isinstance(item, Mapping):
        return None
    name = {"ImgPilToTensor": "ToTensor", "ImgToTensor": "ToTensor"}.get(str(item.get("name")), item.get("name"))
    op = next((op for op in _OPS if op.torchvision == name), None)
    if op is None:
        return None
    params = {k: v for k, v in item.items() if k != "name"}
    number = params.get("interpolation")
    if isinstance(number, int):
        params["interpolation"] = PIL_INTERPOLATIONS.get(number, number)
    valid = all(k in op.parameters and parameter_problem(k, v) is None for k, v in params.items())
    return {op.name: params} if valid and all(k in params for k in op.required) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
