"""The native format: the keys and values that its YAML may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag, field_validator, model_validator

from graphmodel.diagnostics import nearest
from graphmodel.dialects.native.grid_format import GridYaml
from graphmodel.dialects.native.head_format import BATCHNORM, HeadSettingsYaml, HeadYaml, refuse_batchnorm
from graphmodel.dialects.native.resize_format import Resize
from graphmodel.spec.fields import (
    BOOL,
    BY_SHAPE,
    LIST,
    MAP,
    NONE,
    NUMBER,
    TEXT,
    AnyShape,
    Bool,
    Int,
    PositiveInt,
    ShapeField,
    YamlModel,
)
from graphmodel.spec.model import BatchNorm, Combine, Dtype, Grouping, InputType, Layout, MemoryFormat, Returns, Tokens
from graphmodel.spec.sizes import parse_size, size_text

MAX_VIEWS = 1000
"""The most views of an input."""


def _with_unit(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        guess = f"{value}GiB or {value}MiB" if value < 2**17 else f"{value}B or {size_text(int(value))}"
        raise ValueError(f"`{value}` has no unit; help: write a unit, such as {guess}")
    return value


class ViewYaml(YamlModel):
    """`count` views of one shape."""

    example: ClassVar[str] = "{count: 2, shape: [3, 224, 224]}"

    count: PositiveInt = Field(1, le=MAX_VIEWS, description="How many tensors of this shape, in a row.")
    shape: ShapeField = Field(description="Per-sample shape, such as [3, 96, 96].")


class InputYaml(YamlModel):
    """One input: a tensor (`shape`) or a list of tensors (`views`)."""

    renamed: ClassVar[Mapping[str, str]] = {"passes": "grouping"}
    example: ClassVar[str] = "{shape: [3, 224, 224]}"

    shape: AnyShape | None = Field(None, description="Per-sample shape, (C, H, W) for images.")
    views: list[ViewYaml] | None = Field(
        None, min_length=1, description="The input is a list of tensors, such as multi-crop views."
    )
    dtype: Dtype = "float32"
    grouping: Grouping = Field(
        "resolution",
        description="How views share trunk passes: one per resolution, one per run of consecutive equal shapes, or one "
        "per crop.",
    )
    companions: list[str] = Field(
        default_factory=list,
        alias="with",
        description="Further inputs that the trunk takes beside this one, such as a mask.",
    )
    trunk: Literal["none"] | None = Field(
        None, description="`none` if no trunk reads the input: `from: NAME` is then the tensor itself."
    )
    transform: Any = Field(
        None,
        description="What `graphmodel extract` does to an image file: a list of transforms, such as {resize: 256}, or "
        "`timm` for what timm says of the trunk.",
    )

    @field_validator("views")
    @classmethod
    def not_too_many(cls, value: list[ViewYaml] | None) -> list[ViewYaml] | None:
        count = sum(view.count for view in value or ())
        if count > MAX_VIEWS:
            raise ValueError(f"has {count} views; help: an input has at most {MAX_VIEWS}")
        return value

    @model_validator(mode="after")
    def one_form(self) -> InputYaml:
        if self.shape is not None and self.views is not None:
            raise ValueError("has both `shape` and `views`; help: keep `views` for a list of tensors, `shape` for one")
        return self


class TrunkYaml(YamlModel):
    """A trunk by registered name (`resnet`), `torchvision:NAME`, `timm:NAME`, imported code (`module`), or a `copy`."""

    example = "{name: resnet, depth: 50}"
    elsewhere: ClassVar[Mapping[str, str]] = {"freeze": "beside the trunk, write `freeze: [trunk.layer1]`"}
    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = Field(None, description="A registered trunk, `torchvision:NAME` or `timm:NAME`.")
    module: str | None = Field(
        None, description="`package.module:Factory`; imported only if the caller allows imports."
    )
    copy_: str | None = Field(
        None, alias="copy", description="Another trunk: the same architecture and initial weights, frozen by default."
    )
    freeze: Bool = Field(
        False,
        description="No parameter trains, no statistic changes, nothing is dropped out; the default of a copy is true.",
    )
    batchnorm: BatchNorm | None = Field(None, description=BATCHNORM)
    input_type: InputType = Field("rgb", description="The channel order the trunk expects.")
    memory_format: MemoryFormat = Field("contiguous", description="How feature maps and weights lie in memory.")
    pretrained: Annotated[
        Annotated[Bool, Tag(BOOL)] | Annotated[str, Tag(TEXT)],
        BY_SHAPE,
        Field(description="True for the library's published weights, or a file in the library's own layout."),
    ] = False

    @model_validator(mode="after")
    def one_source(self) -> TrunkYaml:
        written = [key for key in self.model_extra or {} if nearest(key, ("name", "module", "copy"))]
        if not (self.name or self.module or self.copy_) and written:
            meant = nearest(written[0], ("name", "module", "copy"))
            raise ValueError(f"has no `name` and an unknown key `{written[0]}`; help: did you mean `{meant}`?")
        if [self.name, self.module, self.copy_].count(None) != 2:
            raise ValueError(
                "needs one of `name`, `module` and `copy`; help: for example `name: resnet` or `name: "
                "timm:convnext_tiny`"
            )
        refuse_batchnorm(
            self.batchnorm, self.freeze or (self.copy_ is not None and "freeze" not in self.model_fields_set)
        )
        fixed = sorted(self.model_fields_set & {"pretrained", "input_type"})
        if self.copy_ is not None and fixed:
            raise ValueError(
                f"has `copy` and `{fixed[0]}`; help: a copy has the weights and the input of its original; leave "
                f"`{fixed[0]}` out"
            )
        return self


class SourceYaml(YamlModel):
    """What a head reads: `input.feature` (`input.trunk.feature` with several trunks), or another output."""

    from_: str = Field(
        alias="from",
        description="`images.res4`, `images.student.res4` with several trunks, `z` for another output, or the name of "
        "an input that no trunk reads.",
    )
    detach: Bool = Field(False, description="No gradient flows back to what is read.")
    pool: Any = Field(None, description="Pooling, such as {adaptive_avg_pool2d: 6}.")
    resize: Resize = None
    flatten: Bool = Field(False, description="Flatten all dimensions after the batch.")
    normalize: Bool = Field(False, description="Divide by the Euclidean norm over the channels.")
    layout: Layout | None = Field(None, description="Reshape to this layout.")
    tokens: Tokens | None = Field(None, description="Which tokens of a token sequence.")
    norm: Bool | None = Field(None, description="Apply the trunk's final norm to an intermediate feature.")
    any_layout: Bool = Field(False, description="Pool and read the feature in any layout, even with channels last.")
    as_: str | None = Field(
        None, alias="as", description="Beside other sources: its key for a head that reads a dict of features."
    )


TextOrSource = Annotated[Annotated[str, Tag(TEXT)] | Annotated[SourceYaml, Tag(MAP)], BY_SHAPE]


class EdgeYaml(YamlModel):
    """One entry of the long mapping: what to read, the head that reads it, the name of the output."""

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(("head", "heads"), "write one entry for each head")
    from_: Annotated[
        Annotated[str, Tag(TEXT)]
        | Annotated[SourceYaml, Tag(MAP)]
        | Annotated[Annotated[list[TextOrSource], Field(min_length=1)], Tag(LIST)],
        BY_SHAPE,
        Field(alias="from"),
    ]
    head: str | None = Field(None, description="The head; without one the feature itself is the output.")
    as_: str | None = Field(None, alias="as", description="The output's name.")
    combine: Combine | None = Field(
        None, description="How several sources become one value; by default as the head reads them, or `concat`."
    )
    detach: Bool = False
    pool: Any = None
    resize: Resize = None
    flatten: Bool = False
    normalize: Bool = False
    layout: Layout | None = None
    tokens: Tokens | None = None
    norm: Bool | None = None
    any_layout: Bool = False


class FeatureYaml(YamlModel):
    """The heads that read a feature, and how it is prepared for them."""

    heads: Annotated[
        Annotated[str, Tag(TEXT)] | Annotated[list[str], Tag(LIST)] | Annotated[None, Tag(NONE)], BY_SHAPE
    ] = None
    head: str | None = None
    as_: str | None = Field(None, alias="as", description="The output's name, if there is one head or none.")
    detach: Bool = False
    pool: Any = None
    resize: Resize = None
    flatten: Bool = False
    normalize: Bool = False
    layout: Layout | None = None
    tokens: Tokens | None = None
    norm: Bool | None = None
    any_layout: Bool = False

    @model_validator(mode="after")
    def one_name(self) -> FeatureYaml:
        if self.head is not None and self.heads is not None:
            raise ValueError("has both `head` and `heads`; help: keep one of them")
        if self.as_ is not None and isinstance(self.heads, list) and len(self.heads) > 1:
            raise ValueError("sets one output name (`as`) for several heads; help: use the long form of `mapping`")
        return self


_OPTIONS = {*FeatureYaml.model_fields, "as"} - {"as_"}


def _features(value: Any) -> Any:
    """Refuses options of an output, or of an input, that are written where its features or tensors are named."""

    def is_option(name: Any, given: Any) -> bool:
        if name == "as" or isinstance(given, (bool, int, float)):
            return name in _OPTIONS
        if isinstance(given, list):
            return name in _OPTIONS and any(isinstance(item, (int, float)) for item in given)
        return name in _OPTIONS and isinstance(given, dict) and bool(given) and not _OPTIONS & {*given}

    written = [name for name, given in value.items() if is_option(name, given)] if isinstance(value, dict) else []
    if written:
        raise ValueError(
            f"has the option `{written[0]}` in the place of a feature; help: write the mapping as a list: "
            f"`- {{from: NAME, {written[0]}: …}}`"
        )
    return value


Readers = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], Tag(LIST)]
    | Annotated[FeatureYaml, Tag(MAP)]
    | Annotated[None, Tag(NONE)],
    BY_SHAPE,
]
Features = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], Tag(LIST)]
    | Annotated[Annotated[dict[str, Readers], BeforeValidator(_features)], Tag(MAP)]
    | Annotated[None, Tag(NONE)],
    BY_SHAPE,
]
Mapping_ = Annotated[
    Annotated[dict[str, Features], Tag(MAP)] | Annotated[list[EdgeYaml], Tag(LIST)] | Annotated[None, Tag(NONE)],
    BY_SHAPE,
]
TrunkField = Annotated[Annotated[str, Tag(TEXT)] | Annotated[TrunkYaml, Tag(MAP)], BY_SHAPE]


class VisslNamingYaml(YamlModel):
    """How VISSL names this model's tensors, for `graphmodel.export_weights(module, "vissl")`."""

    feature_extractor: Bool = Field(False, description="VISSL puts the trunk's keys under `base_model.`.")
    composite_heads: list[str] = Field(
        default_factory=list, description="Heads that VISSL builds from a list of modules."
    )


class WeightsYaml(YamlModel):
    """A checkpoint and how its keys differ; only `graphmodel.load_weights` reads it."""

    example = "{file: checkpoint.pth}"
    file: str = ""
    key: str = Field("", description="The name of the state dict inside the checkpoint.")
    skip: list[str] = Field(default_factory=list, description="Keys that contain one of these are not loaded.")
    remove_prefix: str = ""
    append_prefix: str = ""
    vissl: VisslNamingYaml | None = None


class CheckpointYaml(YamlModel):
    """Which stages are recomputed in the backward pass: every N-th, or as few as a memory budget needs."""

    every: PositiveInt | None = Field(None, description="Recompute every N-th stage of each trunk.")
    memory_budget: Annotated[str | None, BeforeValidator(_with_unit)] = Field(
        None,
        description="The most memory of a training step, such as 4GiB: parameters, gradients and activations. The "
        "stages that cost least are recomputed.",
    )
    batch: PositiveInt | None = Field(None, description="The number of samples of the step that must fit.")

    @field_validator("memory_budget")
    @classmethod
    def is_size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_size(value)
        return value

    @model_validator(mode="after")
    def one_rule(self) -> CheckpointYaml:
        if (self.every is None) == (self.memory_budget is None):
            raise ValueError(
                "needs one of `every` and `memory_budget`; help: for example `{every: 2}` or "
                "`{memory_budget: 4GiB, batch: 64}`"
            )
        if self.memory_budget is not None and self.batch is None:
            raise ValueError(
                "has a `memory_budget` and no `batch`; help: add the number of samples of a training step, such as "
                "`batch: 64`"
            )
        if self.every is not None and self.batch is not None:
            raise ValueError("has `every` and `batch`; help: `batch` belongs to `memory_budget`")
        return self


class NativeSpec(YamlModel):
    """A graphmodel specification: inputs, trunk, heads, and which head reads which feature of which input."""

    graphmodel: Literal[1] = Field(1, description="The version of the format.")
    name: str = "model"
    inputs: Annotated[
        Annotated[
            dict[
                str,
                Annotated[
                    Annotated[InputYaml, Tag(MAP)] | Annotated[AnyShape, Tag(LIST)] | Annotated[None, Tag(NONE)],
                    BY_SHAPE,
                ],
            ],
            Tag(MAP),
        ]
        | Annotated[None, Tag(NONE)],
        BY_SHAPE,
    ] = None
    trunk: TrunkField | None = None
    trunks: dict[str, TrunkField] | None = Field(None, min_length=1)
    heads: dict[str, HeadYaml] = Field(default_factory=dict)
    grid: dict[str, GridYaml] = Field(
        default_factory=dict,
        description="Heads by the dozen: each entry is one head for every combination of layers, pooling, tokens, "
        "parameters and learning rates.",
    )
    head_settings: dict[str, HeadSettingsYaml] = Field(
        default_factory=dict, description="Learning rates and weight decay of single heads, by the head's name."
    )
    head_defaults: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters for every head that has them and does not set them, such as `bn_momentum`.",
    )
    mapping: Mapping_ = None
    freeze: Annotated[Annotated[str, Tag(TEXT)] | Annotated[list[str], Tag(LIST)], BY_SHAPE] = Field(
        default_factory=list, description="Components, module paths and name patterns that do not train."
    )
    outputs: list[Any] | None = Field(
        None, description="Names of outputs to keep, in order; nested lists nest the list form."
    )
    returns: Returns = Field("dict", description="The form of the module's result.")
    checkpoint: Annotated[
        Annotated[Bool, Tag(BOOL)]
        | Annotated[Annotated[Int, Field(ge=0)], Tag(NUMBER)]
        | Annotated[Annotated[list[str], Field(min_length=1)], Tag(LIST)]
        | Annotated[CheckpointYaml, Tag(MAP)],
        BY_SHAPE,
    ] = Field(
        0,
        description="Activation checkpointing: the number of segments per trunk, true for one per stage, names of "
        "stages, `{every: 2}`, or `{memory_budget: 4GiB, batch: 64}`.",
    )
    optimize: Annotated[
        Annotated[Bool, Tag(BOOL)] | Annotated[list[str], Tag(LIST)] | Annotated[dict[str, Bool], Tag(MAP)], BY_SHAPE
    ] = Field(
        True,
        description="Optimization passes: true for the default ones, false for none, a list for exactly these, or a "
        "mapping such as `{batch_inputs: false}` that turns some on or off.",
    )
    weights: WeightsYaml | None = None

    @field_validator("outputs")
    @classmethod
    def names_only(cls, value: list[Any] | None) -> list[Any] | None:
        def check(item: Any) -> None:
            if isinstance(item, list):
                for child in item:
                    check(child)
            elif not isinstance(item, str):
                raise ValueError("takes output names and lists of them")

        check(value or [])
        return value

    @model_validator(mode="after")
    def one_trunk_key(self) -> NativeSpec:
        if self.trunk is not None and self.trunks is not None:
            raise ValueError("has both `trunk` and `trunks`; help: name them all under `trunks`")
        if self.trunk is None and self.trunks is None and not (self.heads or self.grid or self.mapping):
            help = "add for example `trunk: {name: resnet, depth: 50}`, or a `mapping` that reads the inputs themselves"
            raise ValueError(f"has no trunk; help: {help}")
        return self
