"""The native format: `grid`, which stands for one head for every combination of what it reads and how it trains."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Tag, model_validator

from graphmodel.dialects.native.head_format import HeadYaml, Rate
from graphmodel.dialects.native.resize_format import Resize
from graphmodel.spec.fields import BY_SHAPE, LIST, MAP, NONE, NUMBER, TEXT, Bool, YamlModel
from graphmodel.spec.model import Combine, Layout, Tokens

MAX_HEADS = 1000
"""The most heads of a grid: more are more likely a slip than a plan."""

TokensOrList = Annotated[
    Annotated[Tokens, Tag(TEXT)] | Annotated[Annotated[list[Tokens], Field(min_length=1)], Tag(LIST)], BY_SHAPE
]
FeatureOrList = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[Annotated[list[str], Field(min_length=1)], Tag(LIST)], BY_SHAPE
]


class GridLayerYaml(YamlModel):
    """One value of `layers`: a feature or several, and how they are prepared."""

    feature: Annotated[FeatureOrList | None, Field(description="The feature; the key itself if left out.")] = None
    combine: Combine | None = Field(None, description="How several features become one value; `concat` by default.")
    pool: Any = Field(None, description="Pooling, such as {adaptive_avg_pool2d: 6}.")
    resize: Resize = None
    flatten: Bool = False
    normalize: Bool = False
    layout: Layout | None = None
    tokens: TokensOrList | None = None
    norm: Bool | None = None
    any_layout: Bool = False


class GridTokensYaml(YamlModel):
    """Tokens of several layers: some of each layer, others of the last one alone."""

    each: TokensOrList | None = Field(None, description="The tokens of each layer.")
    last: TokensOrList | None = Field(None, description="Further tokens of the last layer.")

    @model_validator(mode="after")
    def any_tokens(self) -> GridTokensYaml:
        if self.each is None and self.last is None:
            raise ValueError("has neither `each` nor `last`; help: for example {each: class, last: mean}")
        return self


Layers = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[Annotated[list[str], Field(min_length=1)], Tag(LIST)]
    | Annotated[
        Annotated[
            dict[
                str,
                Annotated[
                    Annotated[str, Tag(TEXT)]
                    | Annotated[Annotated[list[str], Field(min_length=1)], Tag(LIST)]
                    | Annotated[GridLayerYaml, Tag(MAP)]
                    | Annotated[None, Tag(NONE)],
                    BY_SHAPE,
                ],
            ],
            Field(min_length=1),
        ],
        Tag(MAP),
    ],
    BY_SHAPE,
]
TokensAxis = Annotated[
    Annotated[Tokens, Tag(TEXT)]
    | Annotated[Annotated[list[Tokens], Field(min_length=1)], Tag(LIST)]
    | Annotated[
        Annotated[
            dict[
                str,
                Annotated[
                    Annotated[Tokens, Tag(TEXT)]
                    | Annotated[Annotated[list[Tokens], Field(min_length=1)], Tag(LIST)]
                    | Annotated[GridTokensYaml, Tag(MAP)],
                    BY_SHAPE,
                ],
            ],
            Field(min_length=1),
        ],
        Tag(MAP),
    ],
    BY_SHAPE,
]
Rates = Annotated[
    Annotated[Rate, Tag(NUMBER)] | Annotated[Annotated[list[Rate], Field(min_length=1)], Tag(LIST)], BY_SHAPE
]
ParamAxis = Annotated[
    Annotated[Annotated[list[Any], Field(min_length=1)], Tag(LIST)]
    | Annotated[Annotated[dict[str, Any], Field(min_length=1)], Tag(MAP)],
    BY_SHAPE,
]


class GridYaml(YamlModel):
    """One head for every combination of the values below; an axis is a list of values, or a mapping that names them."""

    head: HeadYaml = Field(description="The head: one module, or a list of modules that run one after the other.")
    input: str | None = Field(None, description="The input whose features the heads read, if there are several.")
    layers: Layers | None = Field(
        None,
        description="What the heads read: features (`[res4, res5]`), or named ones (`{last4: [blocks.10, blocks.11]}`, "
        "`{res4: {pool: {avg_pool2d: 2}}}`); the trunk's default feature if left out.",
    )
    pool: Any = Field(None, description="Pooling: one, a list of several, or a mapping that names them.")
    tokens: TokensAxis | None = Field(
        None,
        description="Tokens: one kind, a list of several, or a mapping that names them, such as "
        "`{cls: class, cls_avg: {each: class, last: mean}}`.",
    )
    norm: Bool | None = Field(None, description="Apply the trunk's final norm to an intermediate feature.")
    flatten: Bool = Field(False, description="Flatten all dimensions after the batch.")
    normalize: Bool = Field(False, description="Divide by the Euclidean norm over the channels.")
    detach: Bool = Field(False, description="No gradient flows back to what is read.")
    params: dict[str, ParamAxis] = Field(
        default_factory=dict,
        description="Parameters of the head's module, each with a list of values, or a mapping that names them.",
    )
    lr: Rates | None = Field(None, description="The learning rate of each head: one, or a list of several.")
    weight_decay: Rates | None = Field(None, description="The weight decay of each head: one, or a list of several.")
