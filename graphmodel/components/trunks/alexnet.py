"""`alexnet_bvlc`, `alexnet_jigsaw`, `alexnet_colorization`, `alexnet_deepcluster`, `alexnet_rotnet`: VISSL's AlexNets.

torchvision has another AlexNet, without normalisation and groups, so these are our own.

Source: Krizhevsky et al. 2012; Noroozi and Favaro 2016 (arXiv:1603.09246); Zhang et al. 2016 (arXiv:1603.08511); Caron
et al. 2018 (arXiv:1807.05520); Gidaris et al. 2018 (arXiv:1803.07728); VISSL 0.1.6, `vissl/models/trunks/alexnet_*.py`,
for widths, strides and the place of the normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from graphmodel.components.family import BGR, LAB, RGB, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl

LAYERS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
VISSL_KEYS = [(f"_feature_blocks.{number}.", f"{name}.") for number, name in enumerate(LAYERS)]


@dataclass(frozen=True)
class Design:
    """What sets one AlexNet apart.

    Attributes:
        widths: output channels of the five convolutions.
        stride: stride of the first convolution.
        padding: its padding.
        grouped: the second, fourth and fifth convolution have two groups.
        batch_norm_from: the first convolution with BatchNorm; 6 for none.
        response_norm: position of local response normalisation in the first two pooling layers.
        channels: channels that the first convolution reads.
        sobel: edges are found first, by a filter that does not train.
    """

    widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    stride: int = 4
    padding: int = 0
    grouped: bool = True
    batch_norm_from: int = 1
    response_norm: Literal["before", "after"] | None = None
    channels: int = 3
    sobel: bool = False


DESIGNS: dict[str, Design] = {
    "alexnet_bvlc": Design(batch_norm_from=6, response_norm="before"),
    "alexnet_jigsaw": Design(stride=2, batch_norm_from=3, response_norm="after"),
    "alexnet_colorization": Design(channels=1),
    "alexnet_deepcluster": Design(padding=2, grouped=False, channels=2, sobel=True),
    "alexnet_rotnet": Design((64, 192, 384, 256, 256), padding=2, grouped=False),
}


class Sobel(nn.Sequential):
    """Grey values, then horizontal and vertical edges; `(N, 3, H, W)` to `(N, 2, H, W)`. It does not train."""

    def __init__(self) -> None:
        grey, edges = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1)
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        with torch.no_grad():
            grey.weight.fill_(1 / 3)
            edges.weight.copy_(torch.stack([across, across.T])[:, None])
            for conv in (grey, edges):
                if conv.bias is not None:
                    conv.bias.zero_()
        super().__init__(grey, edges)
        self.requires_grad_(False)


class AlexNet(nn.Module):
    """Five convolutions and three pooling layers; `(N, C, H, W)` to `(N, 256, h, w)`."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.sobel = Sobel() if design.sobel else None
        groups = 2 if design.grouped else 1
        w1, w2, w3, w4, w5 = design.widths
        convolutions = (
            nn.Conv2d(design.channels, w1, 11, design.stride, design.padding),
            nn.Conv2d(w1, w2, 5, padding=2, groups=groups),
            nn.Conv2d(w2, w3, 3, padding=1),
            nn.Conv2d(w3, w4, 3, padding=1, groups=groups),
            nn.Conv2d(w4, w5, 3, padding=1, groups=groups),
        )
        for number, conv in enumerate(convolutions, 1):
            norm = [nn.BatchNorm2d(conv.out_channels)] if number >= design.batch_norm_from else []
            self.add_module(f"conv{number}", nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
            if number <= 2:
                self.add_module(f"pool{number}", _pool(design))
        self.pool5 = nn.MaxPool2d(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.sobel is not None:
            x = self.sobel(x)
        for name in LAYERS:
            x = getattr(self, name)(x)
        return x


def _pool(design: Design) -> nn.Module:
    pool, norm = nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
    if design.response_norm is None:
        return pool
    return nn.Sequential(norm, pool) if design.response_norm == "before" else nn.Sequential(pool, norm)


class AlexNetParams(TrunkParams):
    """None: an AlexNet's name fixes everything."""


@register_trunk("alexnet_bvlc", "alexnet_jigsaw", "alexnet_colorization", "alexnet_deepcluster", "alexnet_rotnet")
class AlexNetFamily(TrunkFamily[AlexNetParams]):
    """VISSL's five AlexNets; VISSL has no keys for them.

    `flatten` is the feature map of `pool5` as it is, `(N, 256, h, w)`: VISSL flattens its last dimension alone.
    """

    Params = AlexNetParams
    summary = "AlexNet as in BVLC's Caffe, Jigsaw, Colorization, DeepCluster and RotNet"
    source = "graphmodel.components.trunks.alexnet"

    def input_types(self) -> tuple[str, ...]:
        return (LAB,) if DESIGNS[self.name].channels == 1 else (RGB, BGR)

    def build(self, params: AlexNetParams, input_type: str) -> nn.Module:
        return AlexNet(DESIGNS[self.name])

    def features(self, params: AlexNetParams, trunk: nn.Module) -> Sequence[Feature]:
        return (*(Feature(name, (name,)) for name in LAYERS), Feature("flatten", ("pool5",)))

    def from_vissl_key(self, key: str, params: AlexNetParams) -> str | None:
        """VISSL numbers the layers, here they have the names of their features."""
        return from_vissl(key, VISSL_KEYS)

    def to_vissl_key(self, key: str, params: AlexNetParams) -> str | None:
        return to_vissl(key, VISSL_KEYS)
