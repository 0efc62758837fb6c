"""`conv1x1`: a convolution of one pixel, the linear layer of feature maps.

Source: Lin et al. 2014 (arXiv:1312.4400). In a list with `torch.nn:ReLU` it is the dense projection of DenseCL (Wang et
al. 2021, arXiv:2011.09157; WXinlong/DenseCL, `openselfsup/models/necks.py`, `DenseCLNeck`).
"""

from __future__ import annotations

from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, map_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class Conv1x1Params(HeadParams):
    """A convolution of one pixel."""

    in_channels: PositiveInt | Auto = Field("auto", description="Channels of the feature.")
    out_channels: PositiveInt = Field(description="Channels of the result.")
    bias: Bool = Field(True, description="Whether the convolution has a bias.")

    def infer(self, feature: TensorInfo) -> Self:
        return self.with_width("in_channels", map_width(feature), feature)


@register_head("conv1x1", params=Conv1x1Params)
def conv1x1(params: Conv1x1Params) -> nn.Module:
    """A convolution of one pixel: `(N, C, H, W)` to `(N, out_channels, H, W)`.

    Example:
        >>> conv1x1(Conv1x1Params(in_channels=64, out_channels=8))
        Conv2d(64, 8, kernel_size=(1, 1), stride=(1, 1))
    """
    return nn.Conv2d(known(params.in_channels), params.out_channels, 1, bias=params.bias)
