"""`resnet_sk`: the wide ResNets with selective kernels of SimCLRv2.

timm's selective-kernel ResNets are others: their branches dilate and their shortcuts pool without padding, so this is
our own.

Source: Li et al. 2019 (arXiv:1903.06586) for selective kernels; Chen et al. 2020 (arXiv:2006.10029) for the network;
VISSL's `resnext_selective_kernels.py` for padding and the smallest inner width.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from graphmodel.components.family import BGR, RGB, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._pooled import flatten
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.components.trunks.resnet import LAYERS
from graphmodel.spec.fields import PositiveInt

EXPANSION = 4
SMALLEST_INNER_WIDTH = 32


class ResNetSKParams(TrunkParams):
    """Parameters of a ResNet with selective kernels; the defaults are SimCLRv2's largest."""

    depth: Literal[50, 101, 152, 200] = Field(152, description="Number of layers.")
    width_multiplier: PositiveInt = Field(3, description="All widths times this.")
    sk_ratio: float = Field(
        0.0625, ge=0, description="Inner width of the kernel selection by the width; 0 for a plain ResNet."
    )


def _conv(width_in: int, width_out: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride, padding=(kernel - 1) // 2, bias=False)


def _layers(width_in: int, width_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU."""
    return [_conv(width_in, width_out, kernel, stride), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]


class SelectiveKernel(nn.Module):
    """Two 3×3 convolutions, mixed per channel by weights that depend on their sum; `(N, C, H, W)` to the same."""

    def __init__(self, width: int, stride: int, ratio: float) -> None:
        super().__init__()
        inner = max(int(width * ratio), SMALLEST_INNER_WIDTH)
        self.branches = nn.Sequential(*_layers(width, 2 * width, 3, stride))
        self.select = nn.Sequential(*_layers(width, inner, 1), _conv(inner, 2 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = self.branches(x).unflatten(1, (2, -1))
        share = self.select(both.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, -1)).softmax(1)
        return (both * share).sum(1)


class Bottleneck(nn.Module):
    """A ResNet bottleneck whose 3×3 convolution selects its kernel."""

    def __init__(self, width_in: int, width: int, stride: int, ratio: float, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_layers(width_in, width, 1))
        self.conv2: nn.Module = (
            SelectiveKernel(width, stride, ratio) if ratio else nn.Sequential(*_layers(width, width, 3, stride))
        )
        self.conv3 = nn.Sequential(_conv(width, width * EXPANSION), nn.BatchNorm2d(width * EXPANSION))
        self.downsample = _shortcut(width_in, width * EXPANSION, stride, ratio) if project else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)
        return out


def _shortcut(width_in: int, width_out: int, stride: int, ratio: float) -> nn.Sequential:
    """With selective kernels the shortcut averages 2×2 pixels, padded by zeros at the right and at the bottom."""
    if not ratio:
        return nn.Sequential(OrderedDict(conv=_conv(width_in, width_out, stride=stride), bn=nn.BatchNorm2d(width_out)))
    return nn.Sequential(
        OrderedDict(
            pad=nn.ZeroPad2d((0, 1, 0, 1)),
            pool=nn.AvgPool2d(2, stride),
            conv=_conv(width_in, width_out),
            bn=nn.BatchNorm2d(width_out),
        )
    )


class ResNetSK(nn.Module):
    """Stem, four stages, pooling; `(N, 3, H, W)` to `(N, 2048 * width_multiplier, 1, 1)`."""

    def __init__(self, params: ResNetSKParams) -> None:
        super().__init__()
        first, ratio = 64 * params.width_multiplier, params.sk_ratio
        half = first // 2
        deep = [*_layers(3, half, 3, 2), *_layers(half, half, 3), *_layers(half, first, 3)]
        self.conv1 = nn.Sequential(*(deep if ratio else _layers(3, first, 7, 2)))
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        width_in = first
        for i, blocks in enumerate(LAYERS[params.depth][1]):
            width = first * 2**i
            stage = nn.Sequential(Bottleneck(width_in, width, 2 if i else 1, ratio, True))
            width_in = width * EXPANSION
            for _ in range(blocks - 1):
                stage.append(Bottleneck(width_in, width, 1, ratio, False))
            self.add_module(f"layer{i + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        out: torch.Tensor = self.avgpool(x)
        return out


@register_trunk("resnet_sk")
class ResNetSKFamily(TrunkFamily[ResNetSKParams]):
    """SimCLRv2's ResNet; every key of VISSL's RESNETS_SK is used, and more depths than its one.

    VISSL returns the pooled vector for every requested feature; here it is `flatten`, and each stage has its own
    name. Initial weights are drawn as torchvision's ResNet draws them.
    """

    Params = ResNetSKParams
    summary = "ResNet with selective kernels (SimCLRv2)"
    source = "graphmodel.components.trunks.resnet_sk"

    def input_types(self) -> tuple[str, ...]:
        return RGB, BGR

    def build(self, params: ResNetSKParams, input_type: str) -> nn.Module:
        return ResNetSK(params)

    def features(self, params: ResNetSKParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            Feature("conv1", ("conv1",)),
            Feature("res1", ("maxpool",)),
            *(Feature(f"res{i + 1}", (f"layer{i}",), aliases=(f"stage{i}",)) for i in range(1, 5)),
            Feature("res5avg", ("avgpool",)),
            Feature("flatten", ("avgpool",), flatten, ("pre_logits",), "nc"),
        )

    def from_vissl_key(self, key: str, params: ResNetSKParams) -> str | None:
        """VISSL's nested sequences as the layers' names."""
        block = re.fullmatch(r"net\.(\d)\.blocks\.(\d+)\.(.*)", key)
        if block:
            return f"layer{block[1]}.{block[2]}.{from_vissl(block[3], _inside(params))}"
        return from_vissl(key, STEM)

    def to_vissl_key(self, key: str, params: ResNetSKParams) -> str | None:
        block = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", key)
        if block:
            return f"net.{block[1]}.blocks.{block[2]}.{to_vissl(block[3], _inside(params))}"
        return to_vissl(key, STEM)


def _inside(params: ResNetSKParams) -> tuple[tuple[str, str], ...]:
    return (*_SELECTIVE, *_BOTH) if params.sk_ratio else (*_PLAIN, *_BOTH)


# VISSL: convolutions at even places, BatchNorm inside the odd ones. Here: convolution, BatchNorm, ReLU.
STEM = [
    pair
    for i in range(3)
    for pair in ((f"net.0.{2 * i}.", f"conv1.{3 * i}."), (f"net.0.{2 * i + 1}.0.", f"conv1.{3 * i + 1}."))
]
_BOTH = (
    ("projection.bn.0.", "downsample.bn."),
    ("net.0.", "conv1.0."),
    ("net.1.0.", "conv1.1."),
)
_SELECTIVE = (
    ("projection.shortcut.2.", "downsample.conv."),
    ("net.2.main_conv.0.", "conv2.branches.0."),
    ("net.2.main_conv.1.0.", "conv2.branches.1."),
    ("net.2.mixing_conv.0.", "conv2.select.0."),
    ("net.2.mixing_conv.1.0.", "conv2.select.1."),
    ("net.2.mixing_conv.2.", "conv2.select.3."),
    ("net.3.", "conv3.0."),
    ("net.4.0.", "conv3.1."),
)
_PLAIN = (
    ("projection.shortcut.", "downsample.conv."),
    ("net.2.", "conv2.0."),
    ("net.3.0.", "conv2.1."),
    ("net.4.", "conv3.0."),
    ("net.5.0.", "conv3.1."),
)
