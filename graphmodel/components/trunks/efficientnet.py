"""`efficientnet`: EfficientNet B0 to B7, as VISSL builds them with ClassyVision.

Source: Tan and Le 2019 (arXiv:1905.11946); torchvision >= 0.21, `torchvision.models.efficientnet`; ClassyVision 0.7
`efficientnet.py` for the rounding of widths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field
from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig

from graphmodel.components.family import BGR, RGB, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._pooled import flatten
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.spec.fields import Bool, PositiveInt


class Scale(NamedTuple):
    """What a version multiplies B0's widths and depths with, and its dropout before the classifier."""

    width: float
    depth: float
    dropout: float


SCALES: dict[str, Scale] = {
    "B0": Scale(1.0, 1.0, 0.2),
    "B1": Scale(1.0, 1.1, 0.2),
    "B2": Scale(1.1, 1.2, 0.3),
    "B3": Scale(1.2, 1.4, 0.3),
    "B4": Scale(1.4, 1.8, 0.4),
    "B5": Scale(1.6, 2.2, 0.4),
    "B6": Scale(1.8, 2.6, 0.5),
    "B7": Scale(2.0, 3.1, 0.5),
}


class Row(NamedTuple):
    """A stage of B0: expansion, kernel, stride, input width, output width, number of blocks."""

    expansion: int
    kernel: int
    stride: int
    width_in: int
    width_out: int
    depth: int


ROWS = (
    Row(1, 3, 1, 32, 16, 1),
    Row(6, 3, 2, 16, 24, 2),
    Row(6, 5, 2, 24, 40, 2),
    Row(6, 3, 2, 40, 80, 3),
    Row(6, 5, 1, 80, 112, 3),
    Row(6, 5, 2, 112, 192, 4),
    Row(6, 3, 1, 192, 320, 1),
)
PYRAMID = (2, 3, 5, 7)
"""The rows (from 1) that end at the strides 4, 8, 16 and 32."""
HEAD_WIDTH = 1280


def _version(value: Any) -> Any:
    return value.upper().removeprefix("EFFICIENTNET_") if isinstance(value, str) else value


class EfficientNetParams(TrunkParams):
    """Parameters of an EfficientNet."""

    model_version: Annotated[
        Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"],
        BeforeValidator(_version),
        Field(description="Sets width, depth and dropout."),
    ]
    bn_momentum: float = Field(0.01, description="Momentum of every BatchNorm.")
    bn_epsilon: float = Field(1e-3, gt=0, description="Epsilon of every BatchNorm.")
    drop_connect_rate: float = Field(0.2, ge=0, lt=1, description="Stochastic depth of the last block.")
    width_divisor: PositiveInt = Field(8, description="Widths are multiples of it.")
    min_width: PositiveInt | None = Field(None, description="The smallest width; `width_divisor` if not set.")
    use_se: Bool = Field(True, description="Squeeze-and-excitation.")

    def width(self, width: int) -> int:
        """A width of B0 in this version: the nearest multiple of the divisor, at most 10 % less than asked."""
        wanted = width * SCALES[self.model_version].width
        divisor = self.width_divisor
        rounded = max(self.min_width or divisor, int(wanted + divisor / 2) // divisor * divisor)
        return rounded + divisor if rounded < 0.9 * wanted else rounded

    def depths(self) -> list[int]:
        """The number of blocks of each stage."""
        return [math.ceil(row.depth * SCALES[self.model_version].depth) for row in ROWS]

    def blocks(self) -> list[tuple[int, int]]:
        """Stage (from 1) and position of every block, in VISSL's flat order."""
        return [(stage, i) for stage, depth in enumerate(self.depths(), 1) for i in range(depth)]


class _StageConfig(MBConvConfig):
    """A stage whose widths are taken as they are; torchvision rounds them to multiples of 8."""

    @staticmethod
    def adjust_channels(channels: int, width_mult: float, min_value: int | None = None) -> int:
        return int(channels * width_mult)


@register_trunk("efficientnet")
class EfficientNetFamily(TrunkFamily[EfficientNetParams]):
    """torchvision's EfficientNet with ClassyVision's widths; every key of VISSL's EFFICIENT_NETS is used.

    The defaults are those of ClassyVision's predefined models: BatchNorm as in the paper's TensorFlow code, while
    torchvision's B0 to B4 have PyTorch's. Initial weights are torchvision's either way.
    """

    Params = EfficientNetParams
    summary = "EfficientNet B0 to B7 (torchvision)"
    source = "torchvision.models.efficientnet"

    def input_types(self) -> tuple[str, ...]:
        return RGB, BGR

    def build(self, params: EfficientNetParams, input_type: str) -> nn.Module:
        block = MBConv if params.use_se else partial(MBConv, se_layer=nn.Identity)
        stages = [
            _StageConfig(
                row.expansion,
                row.kernel,
                row.stride,
                params.width(row.width_in),
                params.width(row.width_out),
                depth,
                block=block,
            )
            for row, depth in zip(ROWS, params.depths(), strict=True)
        ]
        model = EfficientNet(
            stages,
            dropout=SCALES[params.model_version].dropout,
            stochastic_depth_prob=params.drop_connect_rate,
            norm_layer=partial(nn.BatchNorm2d, eps=params.bn_epsilon, momentum=params.bn_momentum),
            last_channel=params.width(HEAD_WIDTH),
        )
        model.classifier[0].inplace = False  # `flatten` is read beside `dropout`, which would overwrite it
        return model

    def features(self, params: EfficientNetParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            Feature("conv1", ("features.0",)),
            *_blocks_and_stages(params),
            Feature("conv_final", (f"features.{len(ROWS) + 1}",)),
            Feature("avgpool", ("avgpool",)),
            Feature("flatten", ("avgpool",), flatten, ("pre_logits",), "nc"),
            Feature("dropout", ("classifier.0",), layout="nc"),
        )

    def from_vissl_key(self, key: str, params: EfficientNetParams) -> str | None:
        """ClassyVision's flat blocks and named layers as torchvision's stages and positions."""
        key = key.removeprefix("_feature_blocks.")
        block = re.fullmatch(r"block(\d+)\.(.*)", key)
        if block and int(block[1]) < len(params.blocks()):
            stage, position = params.blocks()[int(block[1])]
            return f"features.{stage}.{position}.block.{from_vissl(block[2], _inside(stage))}"
        return from_vissl(key, OUTSIDE_BLOCKS)

    def to_vissl_key(self, key: str, params: EfficientNetParams) -> str | None:
        block = re.fullmatch(r"features\.(\d+)\.(\d+)\.block\.(.*)", key)
        if block:
            stage, position = int(block[1]), int(block[2])
            number = params.blocks().index((stage, position))
            return f"_feature_blocks.block{number}.{to_vissl(block[3], _inside(stage))}"
        return None if key.startswith("classifier.") else f"_feature_blocks.{to_vissl(key, OUTSIDE_BLOCKS)}"


def _blocks_and_stages(params: EfficientNetParams) -> Iterator[Feature]:
    """VISSL's flat blocks, and after the last one of a resolution its stage."""
    for number, (row, position) in enumerate(params.blocks()):
        yield Feature(f"block{number}", (f"features.{row}.{position}",))
        if row in PYRAMID and position == params.depths()[row - 1] - 1:
            yield Feature(f"stage{PYRAMID.index(row) + 1}", (f"features.{row}",))


OUTSIDE_BLOCKS = (("conv1.", "features.0."), ("conv_final.", f"features.{len(ROWS) + 1}."))


def _inside(stage: int) -> list[tuple[str, str]]:
    """The layers of a stage's blocks; the first stage does not expand."""
    first = 0 if ROWS[stage - 1].expansion == 1 else 1
    expansion = [("expand_conv.", "0.0."), ("bn0.", "0.1.")] if first else []
    return [
        *expansion,
        ("depthwise_conv.", f"{first}.0."),
        ("bn1.", f"{first}.1."),
        ("se_reduce.", f"{first + 1}.fc1."),
        ("se_expand.", f"{first + 1}.fc2."),
        ("project_conv.", f"{first + 2}.0."),
        ("bn2.", f"{first + 2}.1."),
    ]
