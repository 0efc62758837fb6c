"""`resnet`: ResNet and ResNeXt of any depth and width, as VISSL builds them on torchvision's.

Source: He et al. 2016 (arXiv:1512.03385), Xie et al. 2017 (arXiv:1611.05431); torchvision >= 0.19,
`torchvision.models.resnet`. Weight standardisation: Qiao et al. 2019 (arXiv:1903.10520).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._pooled import flatten
from graphmodel.spec.validate import Bool, PositiveInt

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
    width_multiplier: PositiveInt = Field(1, description="All widths times this.")
    groups: PositiveInt = Field(1, description="Groups of the 3×3 convolutions (ResNeXt: 32).")
    width_per_group: PositiveInt = Field(64, description="Width of a group at the first stage (ResNeXt-50 32x4d: 4).")
    norm: Literal["BatchNorm", "LayerNorm", "GroupNorm"] = Field("BatchNorm", description="Every normalisation layer.")
    groupnorm_groups: PositiveInt = Field(32, description="Groups of `GroupNorm`.")
    standardize_convolutions: Bool = Field(False, description="Weight-standardised convolutions.")
    zero_init_residual: Bool = Field(False, description="Each residual branch starts at zero.")
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


def _norm(params: ResNetParams) -> Callable[[int], nn.Module] | None:
    if params.norm == "BatchNorm":
        return None
    if params.norm == "LayerNorm":
        return ChannelLayerNorm
    return partial(nn.GroupNorm, params.groupnorm_groups)


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
        block, layers = LAYERS[params.depth]
        model = _Widened(
            block,
            layers,
            zero_init_residual=params.zero_init_residual,
            groups=params.groups,
            width_per_group=params.width_per_group,
            norm_layer=_norm(params),
            multiplier=params.width_multiplier,
            last_stride=params.layer4_stride,
        )
        if input_type == "lab":
            model.conv1 = _kaiming(nn.Conv2d(1, model.conv1.out_channels, 7, 2, 3, bias=False))
        if params.standardize_convolutions:
            for module in model.modules():
                if type(module) is nn.Conv2d:
                    module.__class__ = StandardizedConv2d
        return model

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


def _kaiming(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class _Widened(ResNet):
    """torchvision's ResNet with wider stages and another last stride; unchanged if both are the default.

    torchvision fixes the first width at 64 and the strides at 2; both are read where `_make_layer` is called, so the
    arguments are changed on their way in and the library's own constructor and initialisation run as they are.
    """

    def __init__(self, block: Any, layers: list[int], *, multiplier: int, last_stride: int, **options: Any) -> None:
        self._multiplier, self._last_stride = multiplier, last_stride
        super().__init__(block, layers, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        wide = self.__dict__.get("_multiplier", 1)
        if name == "inplanes" and value == 64 and "conv1" not in self.__dict__.get("_modules", {}):
            value = 64 * wide
        elif name == "fc" and wide > 1:
            value = nn.Linear(value.in_features * wide, value.out_features)
        super().__setattr__(name, value)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        if planes == 512:
            stride = self._last_stride
        return super()._make_layer(block, planes * self._multiplier, blocks, stride, dilate)
