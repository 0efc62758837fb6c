"""The native format: heads, and the settings that they train with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from graphmodel.spec.fields import BY_SHAPE, COPY, LIST, MAP, NONE, TEXT, Bool, YamlModel, shape_of
from graphmodel.spec.model import BatchNorm

Rate = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
"""A learning rate or a weight decay."""

ModuleYaml = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[
        Annotated[
            dict[
                str,
                Annotated[
                    Annotated[dict[str, Any], Tag(MAP)] | Annotated[None, Tag(NONE)],
                    BY_SHAPE,
                ],
            ],
            Field(min_length=1, max_length=1),
        ],
        Tag(MAP),
    ],
    BY_SHAPE,
]


BATCHNORM = (
    "What BatchNorm of a frozen part does in training: `eval` uses the running statistics, as frozen parts do by "
    "default; `train` uses those of the batch and moves the running ones, as in a momentum encoder."
)


def refuse_batchnorm(batchnorm: str | None, freeze: bool) -> None:
    """Refuses `batchnorm` of a part that trains.

    Raises:
        ValueError: if it says something.
    """
    if batchnorm is not None and not freeze:
        raise ValueError(
            f"has `batchnorm: {batchnorm}` and is not frozen; help: leave `batchnorm` out, or write `freeze: true`"
        )


class HeadCopyYaml(YamlModel):
    """A copy of another head: the same modules and initial weights."""

    copy_: str = Field(alias="copy", description="The other head.")
    freeze: Bool = Field(True, description="The copy does not train.")
    batchnorm: BatchNorm | None = Field(None, description=BATCHNORM)

    @model_validator(mode="after")
    def only_if_frozen(self) -> HeadCopyYaml:
        refuse_batchnorm(self.batchnorm, self.freeze)
        return self


def _head_form(value: Any) -> str | None:
    return COPY if isinstance(value, Mapping) and "copy" in value else shape_of(value)


HeadYaml = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[
        Annotated[
            dict[str, Annotated[Annotated[dict[str, Any], Tag(MAP)] | Annotated[None, Tag(NONE)], BY_SHAPE]],
            Field(min_length=1, max_length=1),
        ],
        Tag(MAP),
    ]
    | Annotated[HeadCopyYaml, Tag(COPY)]
    | Annotated[Annotated[list[ModuleYaml], Field(min_length=1)], Tag(LIST)],
    Discriminator(_head_form),
]


class HeadSettingsYaml(YamlModel):
    """How one head trains, and its place in a grid."""

    lr: Rate | None = Field(None, description="Its learning rate, instead of the optimizer's.")
    weight_decay: Rate | None = Field(None, description="Its weight decay, instead of the optimizer's.")
    grid: str = Field("", description="The grid that the head comes from.")
    labels: dict[str, str] = Field(default_factory=dict, description="Its value on each axis of the grid.")
