"""`mobilenet_v3_head` and `mobilenet_v3_head_timm`: the classifier of MobileNetV3 as torchvision and timm build it.

Source: Howard et al. 2019 (arXiv:1905.02244); VISSL's `vissl/models/heads/mobilenet_v3_head.py` (behaviour, names of
parameters and keys).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from graphmodel.components.head import known
from graphmodel.components.heads.mlp import NormParams, Width, as_maps, as_vectors, scale_linear
from graphmodel.components.registry import register_head
from graphmodel.spec.fields import Bool, PositiveInt


class MobileNetV3HeadParams(NormParams):
    """A wide hidden layer with hard swish, dropout, and the classifier."""

    width_field = "in_channels"
    in_channels: Width = Field("auto", description="Width of the feature.")
    mid_channels: PositiveInt = Field(1280, description="Width of the hidden layer.")
    num_classes: PositiveInt = 1000
    drop_out: float = Field(0.2, ge=0, le=1, description="Probability of dropout before the classifier.")
    with_bn: Bool = Field(False, description="BatchNorm over the channels of the feature.")

    def norm(self) -> nn.Module | None:
        """The BatchNorm, or None."""
        if not self.with_bn:
            return None
        return nn.BatchNorm2d(known(self.in_channels), eps=self.bn_eps, momentum=self.bn_momentum)


def _initialize(module: nn.Module, scale: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    scale_linear(module, scale)


@register_head("mobilenet_v3_head", params=MobileNetV3HeadParams)
class MobileNetV3Head(nn.Module):
    """Both layers linear, as in torchvision; `(N, C)` or `(N, C, 1, 1)` to `(N, num_classes)`."""

    def __init__(self, params: MobileNetV3HeadParams) -> None:
        super().__init__()
        self.channel_bn = params.norm()
        self.classifier = nn.Sequential(
            nn.Linear(known(params.in_channels), params.mid_channels),
            nn.Hardswish(inplace=True),
            nn.Dropout(params.drop_out, inplace=True),
            nn.Linear(params.mid_channels, params.num_classes),
        )
        _initialize(self, params.init_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.channel_bn is not None:
            x = self.channel_bn(as_maps(x))
        out: torch.Tensor = self.classifier(as_vectors(x))
        return out


@register_head("mobilenet_v3_head_timm", params=MobileNetV3HeadParams)
class MobileNetV3HeadTimm(nn.Module):
    """The hidden layer a 1×1 convolution, as in timm; `(N, C)` or `(N, C, 1, 1)` to `(N, num_classes)`."""

    def __init__(self, params: MobileNetV3HeadParams) -> None:
        super().__init__()
        self.channel_bn = params.norm()
        self.classifier = nn.Sequential(
            nn.Conv2d(known(params.in_channels), params.mid_channels, 1),
            nn.Hardswish(inplace=True),
            nn.Flatten(1),
            nn.Dropout(params.drop_out, inplace=True),
            nn.Linear(params.mid_channels, params.num_classes),
        )
        _initialize(self, params.init_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = as_maps(x)
        if self.channel_bn is not None:
            x = self.channel_bn(x)
        out: torch.Tensor = self.classifier(x)
        return out
