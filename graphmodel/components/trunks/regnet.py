"""`regnet`: RegNets and AnyNets, by name or by their numbers, as VISSL builds them with ClassyVision.

Source: Radosavovic et al. 2020 (arXiv:2003.13678); Dollár et al. 2021 (arXiv:2103.06877) for RegNetZ; torchvision >=
0.19, `torchvision.models.regnet`; ClassyVision 0.7, `anynet.py` and `regnet.py`, for the rounding of widths, the other
blocks and the other stems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, field_validator, model_validator
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet, ResBottleneckBlock, SimpleStemIN

from graphmodel.components.family import BGR, RGB, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._pooled import flatten
from graphmodel.components.trunks._regnet_blocks import (
    CifarStem,
    ImageNetStem,
    ResBasicBlock,
    ResBottleneckLinearBlock,
    VanillaBlock,
)
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.spec.fields import Bool, PositiveInt

Block = Literal["vanilla_block", "res_basic_block", "res_bottleneck_block", "res_bottleneck_linear_block"]
Stem = Literal["res_stem_cifar", "res_stem_in", "simple_stem_in"]
Activation = Literal["relu", "silu"]

BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "vanilla_block": VanillaBlock,
    "res_basic_block": ResBasicBlock,
    "res_bottleneck_block": ResBottleneckBlock,
    "res_bottleneck_linear_block": ResBottleneckLinearBlock,
}
STEMS: dict[str, Callable[..., nn.Module]] = {
    "res_stem_cifar": CifarStem,
    "res_stem_in": ImageNetStem,
    "simple_stem_in": SimpleStemIN,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Design(NamedTuple):
    """The numbers of a RegNet: depth, first width, slope, step, group width."""

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int


NAMED: dict[str, Design] = {
    "regnet_x_400mf": Design(22, 24, 24.48, 2.54, 16),
    "regnet_x_800mf": Design(16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": Design(18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": Design(25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": Design(23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": Design(22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": Design(23, 320, 69.86, 2.0, 168),
    "regnet_y_400mf": Design(16, 48, 27.89, 2.09, 8),
    "regnet_y_800mf": Design(14, 56, 38.84, 2.4, 16),
    "regnet_y_1_6gf": Design(27, 48, 20.71, 2.65, 24),
    "regnet_y_3_2gf": Design(21, 80, 42.63, 2.66, 24),
    "regnet_y_8gf": Design(17, 192, 76.82, 2.19, 56),
    "regnet_y_16gf": Design(18, 200, 106.23, 2.48, 112),
    "regnet_y_32gf": Design(20, 232, 115.89, 2.53, 232),
    "regnet_y_64gf": Design(20, 352, 147.48, 2.4, 328),
    "regnet_y_128gf": Design(27, 456, 160.83, 2.52, 264),
    "regnet_y_256gf": Design(27, 640, 124.47, 2.04, 848),
    "regnet_z_500mf": Design(21, 16, 10.7, 2.51, 4),
    "regnet_z_4gf": Design(28, 48, 14.5, 2.226, 8),
}
"""The predefined RegNets: Y with squeeze-and-excitation, X without, Z with inverted bottlenecks."""

LADDER = ("depth", "w_0", "w_a", "w_m", "group_width")
STAGES = ("depths", "widths", "group_widths", "bottleneck_multipliers", "strides")


class Stage(NamedTuple):
    """One stage: output width, stride of its first block, number of blocks, width of a group, bottleneck multiplier."""

    width: int
    stride: int
    depth: int
    group_width: int
    bottleneck_multiplier: float


def ladder(design: Design, bottleneck_multiplier: float) -> list[Stage]:
    """The stages of a RegNet's numbers, rounded as ClassyVision does.

    ClassyVision takes the nearest width that the groups fit, as the paper's code does; torchvision never one that is
    more than 10 % smaller. So `regnet_x_400mf`, `regnet_y_800mf` and `regnet_y_8gf` have narrower stages here than in
    torchvision (whose own are `torchvision:regnet_y_8gf` and so on); the other predefined models are the same.
    """
    depth, first, slope, step, group_width = design
    steps = (round(math.log((i * slope + first) / first) / math.log(step)) for i in range(depth))
    widths = [round(first * step**s / 8) * 8 for s in steps]
    stages = []
    for width, blocks in groupby(widths):
        inner = int(width * bottleneck_multiplier)
        group = min(group_width, inner)
        inner = round(inner / group) * group
        stages.append(Stage(int(inner / bottleneck_multiplier), 2, len(list(blocks)), group, bottleneck_multiplier))
    return stages


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Lower = BeforeValidator(_lower)


class RegNetParams(TrunkParams):
    """A RegNet by name (`variant`), by its five numbers, or an AnyNet by lists with one entry per stage."""

    variant: str | None = Field(None, description="A predefined model such as `regnet_y_16gf`, or `anynet`.")
    depth: PositiveInt | None = Field(None, description="Number of blocks.")
    w_0: PositiveInt | None = Field(None, multiple_of=8, description="Width of the first block.")
    w_a: float | None = Field(None, ge=0, description="Slope of the widths.")
    w_m: float | None = Field(None, gt=1, description="Factor between the widths of two stages.")
    group_width: PositiveInt | None = Field(None, description="Channels of a group of the 3×3 convolutions.")
    bottleneck_multiplier: float = Field(1.0, gt=0, description="Inner width of a block by its outer width.")
    depths: list[PositiveInt] | None = Field(None, description="AnyNet: blocks of each stage.")
    widths: list[PositiveInt] | None = Field(None, description="AnyNet: width of each stage.")
    group_widths: list[PositiveInt] | None = Field(None, description="AnyNet: group width of each stage.")
    bottleneck_multipliers: list[float] | None = Field(None, description="AnyNet: multiplier of each stage.")
    strides: list[PositiveInt] | None = Field(None, description="AnyNet: stride of each stage.")
    stem_type: Annotated[Stem, Lower] = Field("simple_stem_in", description="3×3 of stride 1 or 2, or a ResNet's stem.")
    stem_width: PositiveInt = Field(32, description="Width of the stem.")
    block_type: Annotated[Block, Lower] = Field("res_bottleneck_block", description="The block of every stage.")
    activation: Annotated[Activation, Lower] = Field("relu", description="The activation everywhere.")
    use_se: Bool = Field(True, description="Squeeze-and-excitation in bottleneck blocks.")
    se_ratio: float = Field(0.25, ge=0, description="Its inner width by the block's input width.")
    bn_epsilon: float = Field(1e-5, gt=0, description="Epsilon of every BatchNorm.")
    bn_momentum: float = Field(0.1, description="Momentum of every BatchNorm.")
    stage_checkpoints: list[list[int]] = Field(
        default_factory=list,
        description="Ends of VISSL's block groups; they name its keys and change no numbers.",
    )
    stage_checkpointing: list[Any] = Field(
        default_factory=list, description="Which groups VISSL checkpoints; not used, use `checkpoint` in the spec."
    )

    @field_validator("variant")
    @classmethod
    def known(cls, value: str | None) -> str | None:
        """ClassyVision spells `regnet_y_1.6gf`, torchvision `regnet_y_1_6gf`."""
        if value is None:
            return None
        value = value.lower().replace(".", "_")
        if value != "anynet" and value not in NAMED:
            raise ValueError(f"takes `anynet` or a predefined RegNet: {', '.join(NAMED)}")
        return value

    @model_validator(mode="after")
    def complete(self) -> RegNetParams:
        """Each form needs its own keys and accepts none of the others'."""
        set_here = {key for key in (*LADDER, *STAGES) if getattr(self, key) is not None}
        if self.variant in NAMED:
            fixed = set_here | (self.model_fields_set - {"variant", "stage_checkpoints", "stage_checkpointing"})
            if fixed:
                raise ValueError(
                    f"`{self.variant}` fixes all numbers; help: take out {_list(sorted(fixed))}, or the name"
                )
            return self
        wanted, other = (STAGES, LADDER) if self.variant == "anynet" else (LADDER, STAGES)
        missing = [key for key in wanted if key not in set_here]
        if missing:
            form = "an AnyNet" if self.variant else "a RegNet without a name"
            raise ValueError(f"{form} needs {_list(missing)}")
        extra = [key for key in other if key in set_here]
        if extra:
            raise ValueError(f"takes {_list(wanted)}, not {_list(extra)}")
        if self.variant and len({len(getattr(self, key)) for key in STAGES}) > 1:
            raise ValueError(f"{_list(STAGES)} need one entry for each stage, so the same number of entries")
        return self

    def resolved(self) -> RegNetParams:
        """A predefined model's numbers written out."""
        if self.variant not in NAMED:
            return self
        numbers: dict[str, Any] = NAMED[self.variant]._asdict()
        if self.variant.startswith("regnet_x"):
            numbers["use_se"] = False
        elif self.variant.startswith("regnet_z"):
            numbers |= {
                "bottleneck_multiplier": 4.0,
                "block_type": "res_bottleneck_linear_block",
                "activation": "silu",
            }
        return self.model_copy(update={"variant": None, **numbers})

    def stages(self) -> list[Stage]:
        """The stages from the stem on."""
        if self.variant == "anynet":
            lists = [getattr(self, key) for key in ("widths", "strides", "depths", "group_widths", STAGES[3])]
            return [Stage(*row) for row in zip(*lists, strict=True)]
        numbers = self.resolved()
        design = Design(*(getattr(numbers, key) for key in LADDER))
        return ladder(design, numbers.bottleneck_multiplier)


def _list(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


@register_trunk("regnet", "regnet_v2", "regnet_fsdp")
class RegNetFamily(TrunkFamily[RegNetParams]):
    """torchvision's RegNet with ClassyVision's widths, blocks and stems.

    `regnet_v2` and `regnet_fsdp` are the same model; VISSL shards and checkpoints them, which is up to the trainer
    here. Not used: `stage_checkpointing`, for that reason. `stage_checkpoints` only says how VISSL's own keys are
    spelled (`block1-part0.block1-0`).
    """

    Params = RegNetParams
    summary = "RegNet X, Y, Z and AnyNet (torchvision), by name or by numbers"
    source = "torchvision.models.regnet"

    def input_types(self) -> tuple[str, ...]:
        return RGB, BGR

    def build(self, params: RegNetParams, input_type: str) -> nn.Module:
        numbers = params.resolved()
        stages = params.stages()
        blocks = BlockParams(
            depths=[s.depth for s in stages],
            widths=[s.width for s in stages],
            group_widths=[s.group_width for s in stages],
            bottleneck_multipliers=[s.bottleneck_multiplier for s in stages],
            strides=[s.stride for s in stages],
            se_ratio=numbers.se_ratio if numbers.use_se else None,
        )
        return RegNet(
            blocks,
            stem_width=numbers.stem_width,
            stem_type=STEMS[numbers.stem_type],
            block_type=BLOCKS[numbers.block_type],
            norm_layer=partial(nn.BatchNorm2d, eps=numbers.bn_epsilon, momentum=numbers.bn_momentum),
            activation=ACTIVATIONS[numbers.activation],
        )

    def features(self, params: RegNetParams, trunk: nn.Module) -> Sequence[Feature]:
        count = len(params.stages())
        return (
            Feature("conv1", ("stem",)),
            *(Feature(f"res{i + 1}", (f"trunk_output.block{i}",), aliases=(f"stage{i}",)) for i in range(1, count + 1)),
            Feature("avgpool", ("avgpool",)),
            Feature("flatten", ("avgpool",), flatten, ("pre_logits",), "nc"),
        )

    def from_vissl_key(self, key: str, params: RegNetParams) -> str | None:
        """ClassyVision's key, with or without VISSL's block groups (`block1-part0.`), as torchvision's."""
        key = key.removeprefix("_feature_blocks.")
        block = re.fullmatch(r"res\d+\.(?:block\d+-part\d+\.)?block(\d+)-(\d+)\.(.*)", key)
        if block:
            return f"trunk_output.block{block[1]}.block{block[1]}-{block[2]}.{from_vissl(block[3], _inside(params))}"
        return from_vissl(key, STEM_KEYS)

    def to_vissl_key(self, key: str, params: RegNetParams) -> str | None:
        block = re.fullmatch(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.(.*)", key)
        if block:
            stage, number = int(block[1]), int(block[2])
            grouped = self.name in ("regnet_v2", "regnet_fsdp")
            group = f"block{stage}-part{_group(params, stage, number)}." if grouped else ""
            inner = to_vissl(block[3], _inside(params))
            return f"_feature_blocks.res{stage + 1}.{group}block{stage}-{number}.{inner}"
        return None if key.startswith("fc.") else f"_feature_blocks.{to_vissl(key, STEM_KEYS)}"


class PredefinedRegNetParams(TrunkParams):
    """None: the trunk's name fixes everything."""


@register_trunk(
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_1_6gf",
    "regnet_x_1.6gf",
    "regnet_x_3_2gf",
    "regnet_x_3.2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_1_6gf",
    "regnet_y_1.6gf",
    "regnet_y_3_2gf",
    "regnet_y_3.2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_64gf",
    "regnet_y_128gf",
    "regnet_y_256gf",
    "regnet_z_500mf",
    "regnet_z_4gf",
)
class PredefinedRegNetFamily(TrunkFamily[PredefinedRegNetParams]):
    """`regnet_y_16gf` and the like as names of trunks, as VISSL's documentation writes them.

    The same as `regnet` with that name as its `variant`; ClassyVision writes a dot in `regnet_y_1.6gf`.
    """

    Params = PredefinedRegNetParams
    summary = "predefined RegNet X, Y and Z (torchvision)"
    source = "torchvision.models.regnet"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.family = RegNetFamily("regnet")
        self.numbers = RegNetParams(variant=name)

    def input_types(self) -> tuple[str, ...]:
        return self.family.input_types()

    def build(self, params: PredefinedRegNetParams, input_type: str) -> nn.Module:
        return self.family.build(self.numbers, input_type)

    def features(self, params: PredefinedRegNetParams, trunk: nn.Module) -> Sequence[Feature]:
        return self.family.features(self.numbers, trunk)

    def from_vissl_key(self, key: str, params: PredefinedRegNetParams) -> str | None:
        return self.family.from_vissl_key(key, self.numbers)

    def to_vissl_key(self, key: str, params: PredefinedRegNetParams) -> str | None:
        return self.family.to_vissl_key(key, self.numbers)


STEM_KEYS = (("conv1.stem.", "stem."),)


def _inside(params: RegNetParams) -> list[tuple[str, str]]:
    """Layers inside a block that ClassyVision names otherwise."""
    basic = params.resolved().block_type == "res_basic_block"
    last = "f.b." if basic else "f.c."
    return [
        ("proj.", "proj.0."),
        ("bn.", "proj.1."),
        ("f.se.excitation.0.", "f.se.fc1."),
        ("f.se.excitation.2.", "f.se.fc2."),
        ("f.a.3." if basic else "f.c.", f"{last}0."),
        ("f.final_bn.", f"{last}1."),
    ]


def _group(params: RegNetParams, stage: int, block: int) -> int:
    """The group of VISSL's that holds a block; `stage_checkpoints` has the ends of each stage's groups."""
    ends = params.stage_checkpoints[stage - 1] if len(params.stage_checkpoints) >= stage else []
    return sum(end <= block for end in ends)
