"""The blocks and stems of AnyNets that torchvision does not have, built of its parts under its names.

Source: Radosavovic et al. 2020 (arXiv:2003.13678) and Dollár et al. 2021 (arXiv:2103.06877); ClassyVision 0.7,
`anynet.py`, for the behaviour; torchvision >= 0.21 for the parts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models.regnet import BottleneckTransform
from torchvision.ops.misc import Conv2dNormActivation

Layer = Callable[..., nn.Module]


class CifarStem(Conv2dNormActivation):
    """For small images: a 3×3 convolution that keeps the resolution."""

    def __init__(self, width_in: int, width_out: int, norm_layer: Layer, activation_layer: Layer) -> None:
        super().__init__(width_in, width_out, kernel_size=3, norm_layer=norm_layer, activation_layer=activation_layer)


class ImageNetStem(Conv2dNormActivation):
    """The stem of a ResNet: a 7×7 convolution of stride 2, then max-pooling of stride 2."""

    def __init__(self, width_in: int, width_out: int, norm_layer: Layer, activation_layer: Layer) -> None:
        super().__init__(
            width_in, width_out, kernel_size=7, stride=2, norm_layer=norm_layer, activation_layer=activation_layer
        )
        self.append(nn.MaxPool2d(3, stride=2, padding=1))


class VanillaBlock(nn.Sequential):
    """Two 3×3 convolutions without a skip connection."""

    def __init__(
        self, width_in: int, width_out: int, stride: int, norm_layer: Layer, activation_layer: Layer, *unused: Any
    ) -> None:
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=activation_layer)
        super().__init__(
            OrderedDict(
                a=conv(width_in, width_out, kernel_size=3, stride=stride),
                b=conv(width_out, width_out, kernel_size=3),
            )
        )


class ResBasicBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection."""

    def __init__(
        self, width_in: int, width_out: int, stride: int, norm_layer: Layer, activation_layer: Layer, *unused: Any
    ) -> None:
        super().__init__()
        linear = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=None)
        self.proj = (
            linear(width_in, width_out, kernel_size=1, stride=stride) if width_in != width_out or stride > 1 else None
        )
        self.f = nn.Sequential(
            OrderedDict(
                a=Conv2dNormActivation(
                    width_in,
                    width_out,
                    kernel_size=3,
                    stride=stride,
                    norm_layer=norm_layer,
                    activation_layer=activation_layer,
                ),
                b=linear(width_out, width_out, kernel_size=3),
            )
        )
        self.activation = activation_layer(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        out: torch.Tensor = self.activation(shortcut + self.f(x))
        return out


class ResBottleneckLinearBlock(nn.Module):
    """A bottleneck with nothing after the sum; a skip connection only if the shape stays the same (RegNetZ)."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        stride: int,
        norm_layer: Layer,
        activation_layer: Layer,
        group_width: int,
        bottleneck_multiplier: float,
        se_ratio: float | None,
    ) -> None:
        super().__init__()
        self.skip = width_in == width_out and stride == 1
        self.f = BottleneckTransform(
            width_in, width_out, stride, norm_layer, activation_layer, group_width, bottleneck_multiplier, se_ratio
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.f(x)
        return x + out if self.skip else out
