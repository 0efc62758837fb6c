"""`deconv`: transposed convolutions and a heatmap for each joint.

Source: Xiao et al. 2018 (Simple Baselines, arXiv:1804.06208); microsoft/human-pose-estimation.pytorch,
`lib/models/pose_resnet.py`, `PoseResNet._make_deconv_layer`, `final_layer` and `init_weights`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, map_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import PositiveInt


class DeconvParams(HeadParams):
    """A head for heatmaps, such as those of joints."""

    in_channels: PositiveInt | Auto = Field("auto", description="Channels of the feature.")
    num_joints: PositiveInt = Field(description="Number of heatmaps.")
    channels: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        [256, 256, 256], description="Channels of each transposed convolution, which doubles the size of the map."
    )
    final_kernel: Literal[1, 3] = Field(1, description="Kernel size of the last convolution.")

    def infer(self, feature: TensorInfo) -> Self:
        return self.with_width("in_channels", map_width(feature), feature)


@register_head("deconv", params=DeconvParams)
class Deconv(nn.Module):
    """Heatmaps: `(N, C, H, W)` to `(N, num_joints, H * 2^k, W * 2^k)` for k transposed convolutions.

    The keys of the state dict are those of the reference code.

    Example:
        >>> head = Deconv(DeconvParams(in_channels=8, num_joints=17, channels=[6, 4]))
        >>> tuple(head(torch.zeros(1, 8, 3, 2)).shape)
        (1, 17, 12, 8)
    """

    def __init__(self, params: DeconvParams) -> None:
        super().__init__()
        widths = [known(params.in_channels), *params.channels]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers.append(nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*layers)
        kernel = params.final_kernel
        self.final_layer = nn.Conv2d(widths[-1], params.num_joints, kernel, padding=kernel // 2)
        for layer in self.modules():
            if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.normal_(layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.final_layer(self.deconv_layers(x))
        return found
