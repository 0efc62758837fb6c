"""Models that read feature maps, by hand: a pyramid for detection, and semantic segmentation with an auxiliary head."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50

from tests.recipes.cases import Case, Outputs, images


def stages(trunk: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The maps of a ResNet's four stages."""
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
    found = []
    for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        x = stage(x)
        found.append(x)
    return found


class Pyramid(nn.Module):
    """Lin et al. 2017, figure 3: lateral convolutions, a sum from the top down, a convolution of each level."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = resnet18()
        del self.trunk.fc
        self.inner = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in (64, 128, 256, 512))
        self.layer = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        for module in (self.trunk.conv1, self.trunk.layer1):
            module.requires_grad_(False)
        for module in self.norms():
            module.requires_grad_(False)

    def norms(self) -> list[nn.Module]:
        return [m for m in self.trunk.modules() if isinstance(m, nn.BatchNorm2d)]

    def forward(self, images: torch.Tensor) -> Outputs:
        for norm in self.norms():
            norm.eval()
        maps = [inner(x) for inner, x in zip(self.inner, stages(self.trunk, images), strict=True)]
        for i in (2, 1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], scale_factor=2, mode="nearest")
        levels = [layer(x) for layer, x in zip(self.layer, maps, strict=True)]
        names = [f"pyramid.res{i}" for i in (2, 3, 4, 5)]
        return {**dict(zip(names, levels, strict=True)), "pyramid.pool": levels[-1][:, :, ::2, ::2]}


def detection_loss(out: Outputs) -> torch.Tensor:
    """Stands for the losses of boxes and classes, which read every level."""
    return sum(level.square().mean() for level in out.values())


def fcn(width: int) -> nn.Sequential:
    middle = width // 4
    return nn.Sequential(
        nn.Conv2d(width, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Identity(),  # dropout, which the test leaves out
        nn.Conv2d(middle, 21, 1),
    )


class Segmentation(nn.Module):
    """torchvision, models/segmentation/_utils.py."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = resnet50(replace_stride_with_dilation=[False, True, True], width_per_group=4)
        del self.trunk.fc
        self.out, self.aux = fcn(2048), fcn(1024)

    def forward(self, images: torch.Tensor) -> Outputs:
        *_, third, fourth = stages(self.trunk, images)
        scores = {"out": self.out(fourth), "aux": self.aux(third)}
        size = images.shape[-2:]
        return {name: F.interpolate(x, size, mode="bilinear", align_corners=False) for name, x in scores.items()}


def segmentation_loss(out: Outputs) -> torch.Tensor:
    labels = torch.arange(2 * 48 * 48).view(2, 48, 48) % 21
    return F.cross_entropy(out["out"], labels) + 0.5 * F.cross_entropy(out["aux"], labels)


CASES = {
    "fpn_detection": Case(
        ["trunk.depth=18", "inputs.images=[3,64,64]", "heads.pyramid.fpn.out_channels=8"],
        Pyramid,
        {
            "trunk": "trunk",
            **{f"inner.{i}": f"heads.pyramid.inner_blocks.{i}.0" for i in range(4)},
            **{f"layer.{i}": f"heads.pyramid.layer_blocks.{i}.0" for i in range(4)},
        },
        lambda: [images(2, 64)],
        detection_loss,
    ),
    "segmentation": Case(
        [
            "inputs.images=[3,48,48]",
            "trunk.width_per_group=4",
            "heads.out.segmentation.dropout=0",
            "heads.aux.segmentation.dropout=0",
        ],
        Segmentation,
        {"trunk": "trunk", "out": "heads.out", "aux": "heads.aux"},
        lambda: [images(2, 48)],
        segmentation_loss,
    ),
}
