"""Hand-written modules that the compiled ones are compared with, and a way to give both the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet


class NarrowResNet(ResNet):
    """torchvision's ResNet-18 (other depths by `layers`) a quarter as wide, which starts and runs in a fraction of the time.

    It is `{name: resnet, depth: 18, width_multiplier: 0.25}`. torchvision's constructor fixes the widths; blocks, stages
    and the forward pass are torchvision's.
    """

    def __init__(self, layers: Sequence[int] = (2, 2, 2, 2), num_classes: int = 1000) -> None:
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, 16, 1, 1, 64
        self.conv1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i, (width, blocks) in enumerate(zip((16, 32, 64, 128), layers, strict=True)):
            setattr(self, f"layer{i + 1}", self._make_layer(BasicBlock, width, blocks, stride=1 if i == 0 else 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def copy_weights(source: nn.Module, target: nn.Module, names: dict[str, str]) -> None:
    """Copies tensors whose names begin with a key of `names` in `source` to the name it maps to in `target`."""
    theirs, ours = source.state_dict(), target.state_dict()
    with torch.no_grad():
        for name, tensor in theirs.items():
            for prefix, other in names.items():
                if name.startswith(prefix):
                    ours[other + name.removeprefix(prefix)].copy_(tensor)
                    break
            else:
                raise AssertionError(f"no place for {name}")


class Trunk(nn.Module):
    """A narrow ResNet-18 that returns its stages by hand."""

    def __init__(self) -> None:
        super().__init__()
        model = NarrowResNet()
        del model.fc
        self.model = model

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        m = self.model
        out = {"conv1": m.relu(m.bn1(m.conv1(x)))}
        out["res2"] = m.layer1(m.maxpool(out["conv1"]))
        out["res3"] = m.layer2(out["res2"])
        out["res4"] = m.layer3(out["res3"])
        out["res5"] = m.layer4(out["res4"])
        out["flatten"] = torch.flatten(m.avgpool(out["res5"]), 1)
        return out


class Pirl(nn.Module):
    """Images and nine patches per sample, a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.image = nn.Linear(128, 8)
        self.first, self.last = nn.Linear(128, 4), nn.Linear(36, 8)

    def forward(self, images: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.image(self.trunk(images)["flatten"])
        rows = self.first(self.trunk(patches)["flatten"])
        return image, self.last(rows.reshape(rows.shape[0] // 9, -1))


PIRL_NAMES = {
    "trunk.model.": "trunk.",
    "image.": "heads.image.clf.0.",
    "first.": "heads.jigsaw.0.clf.0.",
    "last.": "heads.jigsaw.2.clf.0.",
}
