"""Hand-written modules that the compiled ones are compared with, and a way to give both the same weights."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet18


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
    """A ResNet-18 that returns its stages by hand."""

    def __init__(self) -> None:
        super().__init__()
        model = resnet18()
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
        self.image = nn.Linear(512, 8)
        self.first, self.last = nn.Linear(512, 4), nn.Linear(36, 8)

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
