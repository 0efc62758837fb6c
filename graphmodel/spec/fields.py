"""What the Pydantic models of specs are made of: types of fields, unions told apart by YAML shape, base models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field

TEXT, MAP, LIST, NUMBER, BOOL, NONE = "~text", "~mapping", "~list", "~number", "~boolean", "~nothing"
COPY = "~copy"
TAGS = {TEXT, MAP, LIST, NUMBER, BOOL, NONE, COPY}


def shape_of(value: Any) -> str | None:
    """The tag of a value's YAML shape; unions of surface models are told apart by it alone."""
    if value is None:
        return NONE
    for kind, tag in (
        (bool, BOOL),
        (str, TEXT),
        ((int, float), NUMBER),
        ((list, tuple), LIST),
        ((Mapping, BaseModel), MAP),
    ):
        if isinstance(value, kind):
            return tag
    return None


BY_SHAPE = Discriminator(shape_of)
"""`Annotated[Annotated[str, Tag(TEXT)] | Annotated[Model, Tag(MAP)], BY_SHAPE]`: one branch only is validated."""

_YES_NO = {"yes": True, "no": False, "on": True, "off": False}


def _yes_no(value: Any) -> Any:
    return _YES_NO.get(value.lower(), value) if isinstance(value, str) else value


Bool = Annotated[bool, BeforeValidator(_yes_no), Field(strict=True)]
"""A boolean; the words of YAML 1.1 (`yes`, `off`) count, numbers do not."""
Int = Annotated[int, Field(strict=True)]
PositiveInt = Annotated[int, Field(strict=True, gt=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


MAX_NUMBERS = 2**40
"""The most elements that one sample may have: larger shapes are mistakes, and torch cannot count them."""


def _shape(value: Any) -> Any:
    if isinstance(value, str):
        sizes = re.split(r"\s*[xX×*,]\s*", value.strip("()[] "))
        example = ", ".join(sizes) if all(re.fullmatch(r"[0-9]{1,9}", size) for size in sizes) else "3, 224, 224"
        raise ValueError(f"`{value[:60]}` is text, not a shape; help: write a list: `[{example}]`")
    return tuple(value) if isinstance(value, list) else value


def _within_limit(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"a shape of more than {MAX_NUMBERS} elements is too large for a tensor")
    return shape


ShapeField = Annotated[
    tuple[PositiveInt, ...], BeforeValidator(_shape), AfterValidator(_within_limit), Field(min_length=1)
]
"""A per-sample shape such as `[3, 224, 224]`."""


AnyShape = Annotated[tuple[PositiveInt, ...], BeforeValidator(_shape), AfterValidator(_within_limit)]
"""A per-sample shape that may be empty: one number per sample."""


class FrozenModel(BaseModel):
    """A model that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class YamlModel(FrozenModel):
    """A mapping that users write.

    Attributes:
        renamed: keys of earlier versions and their present names; a diagnostic names the new key.
        elsewhere: what to write instead of a key that another place has, or of a value that another place takes.
        example: how one is written, for those who write something else.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    elsewhere: ClassVar[Mapping[str, str]] = {}
    example: ClassVar[str] = ""
