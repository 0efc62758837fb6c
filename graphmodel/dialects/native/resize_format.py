"""The key `resize` of the native format: a size and how to resample a feature map to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag, model_validator

from graphmodel.spec.fields import BY_SHAPE, LIST, NUMBER, TEXT, Bool, PositiveInt, YamlModel
from graphmodel.spec.model import ResizeMode


class ResizeYaml(YamlModel):
    """A size and how to resample to it."""

    size: Annotated[
        Annotated[Literal["largest", "smallest", "input"], Tag(TEXT)]
        | Annotated[PositiveInt, Tag(NUMBER)]
        | Annotated[Annotated[list[PositiveInt], Field(min_length=1, max_length=3)], Tag(LIST)],
        BY_SHAPE,
    ] = Field(description="The size, the `largest` or `smallest` of the maps that are joined, or that of the `input`.")
    mode: ResizeMode | None = Field(None, description="As in torch's `interpolate`; linear by default.")
    antialias: Bool = Field(False, description="For `bilinear` and `bicubic`.")
    align_corners: Bool = Field(False, description="For the linear and cubic modes.")

    @model_validator(mode="after")
    def options_of_mode(self) -> ResizeYaml:
        if self.antialias and self.mode not in (None, "bilinear", "bicubic"):
            raise ValueError(f"has `antialias` and mode {self.mode}; help: it applies to bilinear and bicubic")
        if self.align_corners and self.mode in ("nearest", "nearest-exact", "area"):
            raise ValueError(f"has `align_corners` and mode {self.mode}; help: leave `align_corners` out")
        return self


def _as_mapping(value: Any) -> Any:
    return value if value is None or isinstance(value, Mapping) else {"size": value}


Resize = Annotated[
    ResizeYaml | None,
    BeforeValidator(_as_mapping),
    Field(
        description="Resample to a size: 7, [7, 7], `largest`, `input`, or a mapping such as {size: 7, mode: nearest}."
    ),
]
