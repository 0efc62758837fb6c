"""`resnet`: ResNet and ResNeXt of any depth and width, as VISSL builds them on torchvision's.

Source: He et al. 2016 (arXiv:1512.03385), Xie et al. 2017 (arXiv:1611.05431); torchvision >= 0.21,
`torchvision.models.resnet`. Weight standardisation: Qiao et al. 2019 (arXiv:1903.10520).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from graphmodel.components.construct import specialize
from graphmodel.components.family import RGB, InvalidTrunkParams, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of
from graphmodel.components.trunks._pooled import flatten
from graphmodel.spec.fields import Bool, PositiveFloat, PositiveInt

LAYERS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
    200: (Bottleneck, [3, 24, 36, 3]),
}


class ResNetParams(TrunkParams):
    """Parameters of a ResNet or ResNeXt."""

    depth: Literal[18, 34, 50, 101, 152, 200] = Field(50, description="Number of layers; 18 and 34 have basic blocks.")
    width_multiplier: PositiveFloat | PositiveInt = Field(
        1, description="All widths times this; `0.25` gives stages of 16, 32, 64 and 128 channels."
    )
    groups: PositiveInt = Field(1, description="Groups of the 3×3 convolutions (ResNeXt: 32).")
    width_per_group: PositiveInt = Field(64, description="Width of a group at the first stage (ResNeXt-50 32x4d: 4).")
    norm: Literal["BatchNorm", "LayerNorm", "GroupNorm"] = Field("BatchNorm", description="Every normalisation layer.")
    groupnorm_groups: PositiveInt = Field(32, description="Groups of `GroupNorm`.")
    standardize_convolutions: Bool = Field(False, description="Weight-standardised convolutions.")
    zero_init_residual: Bool = Field(False, description="Each residual branch starts at zero.")
    in_chans: PositiveInt | None = Field(None, description="Channels of the images; by default 3, or 1 for `lab`.")
    layer4_stride: Literal[1, 2] = Field(2, description="Stride of the last stage.")


class ChannelLayerNorm(nn.GroupNorm):
    """Layer normalisation over channels and space: a group norm with one group."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose kernels are standardised to zero mean and unit deviation in every forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = weight.view(weight.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return self._conv_forward(x, weight / deviation, self.bias)


def _width(params: ResNetParams) -> int:
    """Channels of the first stage, 64 times the multiplier."""
    width = 64 * params.width_multiplier
    if width != int(width):
        message = f"`width_multiplier: {params.width_multiplier}` gives {width:g} channels"
        help = f"{max(1, round(width)) / 64:g} gives {max(1, round(width))}"
        raise InvalidTrunkParams(message, ("width_multiplier",), help)
    return int(width)


def _norm(params: ResNetParams) -> Callable[[int], nn.Module] | None:
    if params.norm == "BatchNorm":
        return None
    if params.norm == "LayerNorm":
        return ChannelLayerNorm
    return partial(nn.GroupNorm, params.groupnorm_groups)


class WideResNet(ResNet):
    """torchvision's ResNet with the first width, the last stride and the input channels as parameters.

    torchvision fixes them at 64, 2 and 3, so its constructor is written out here; stages and initialisation are its
    own. With those values the weights under a seed are torchvision's.
    """

    def __init__(self, params: ResNetParams, channels: int) -> None:
        nn.Module.__init__(self)
        block, depths = LAYERS[params.depth]
        width = _width(params)
        self._norm_layer = _norm(params) or nn.BatchNorm2d
        self.inplanes, self.dilation = width, 1
        self.groups, self.base_width = params.groups, params.width_per_group
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, depths[0])
        self.layer2 = self._make_layer(block, width * 2, depths[1], stride=2)
        self.layer3 = self._make_layer(block, width * 4, depths[2], stride=2)
        self.layer4 = self._make_layer(block, width * 8, depths[3], stride=params.layer4_stride)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width * 8 * block.expansion, 1000)
        self._initialize(params.zero_init_residual)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules() if zero_init_residual else ():
            last = {Bottleneck: "bn3", BasicBlock: "bn2"}.get(type(module))
            if last is not None:
                nn.init.zeros_(module.get_parameter(f"{last}.weight"))


@register_trunk("resnet")
class ResNetFamily(TrunkFamily[ResNetParams]):
    """torchvision's ResNet, its width, norm, convolutions and last stride set as asked.

    Every key of VISSL's RESNETS is used, as VISSL documents it. VISSL's own code does not read
    `STANDARDIZE_CONVOLUTIONS`, and it makes the stages anew after torchvision's initialisation: its initial weights are
    PyTorch's plain ones and `ZERO_INIT_RESIDUAL` has no effect. Here both are torchvision's.
    """

    Params = ResNetParams
    summary = "ResNet and ResNeXt (torchvision), depths 18 to 200"
    source = "torchvision.models.resnet"

    def build(self, params: ResNetParams, input_type: str) -> nn.Module:
        model = WideResNet(params, self.channels(params, input_type))
        if params.standardize_convolutions:
            for module in model.modules():
                if type(module) is nn.Conv2d:
                    specialize(module, StandardizedConv2d)
        return model

    def channels(self, params: ResNetParams, input_type: str) -> int:
        """The channels that the first convolution reads.

        Raises:
            InvalidTrunkParams: if `in_chans` contradicts the input type.
        """
        channels = channels_of(input_type)
        if params.in_chans is None or params.in_chans == channels:
            return channels
        if input_type != RGB:
            message = f"`input_type: {input_type}` gives {channels} channels, not {params.in_chans}"
            raise InvalidTrunkParams(message, ("in_chans",), "leave out one of them", "GM202")
        return params.in_chans

    def input_help(
        self, params: ResNetParams, shape: Sequence[int], trunk: nn.Module, shapes: Sequence[Sequence[int]] = ()
    ) -> str:
        if len(shape) != 3 or shape[0] == trunk.get_parameter("conv1.weight").shape[1]:
            return ""
        return f"write `in_chans: {shape[0]}`"

    def features(self, params: ResNetParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            Feature("conv1", ("relu",)),
            Feature("res1", ("maxpool",)),
            *(Feature(f"res{i + 1}", (f"layer{i}",), aliases=(f"stage{i}",)) for i in range(1, 5)),
            Feature("res5avg", ("avgpool",)),
            Feature("flatten", ("avgpool",), flatten, ("pre_logits",), "nc"),
        )

    def to_vissl_key(self, key: str, params: ResNetParams) -> str | None:
        return None if key.startswith("fc.") else f"_feature_blocks.{key}"
