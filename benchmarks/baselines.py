"""What compiled models are compared with: hand-written modules, loops over heads, and the libraries' extractors.

Each lists its trunk first and its heads in the order of the spec, so that `copy_weights` can pair the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models


class Stages(nn.Module):
    """A torchvision ResNet without its classifier, by hand: the feature maps after the stem and each layer."""

    def __init__(self, name: str = "resnet50") -> None:
        super().__init__()
        model = getattr(models, name)()
        self.conv1, self.bn1, self.relu, self.maxpool = model.conv1, model.bn1, model.relu, model.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = model.layer1, model.layer2, model.layer3, model.layer4
        self.width: int = model.fc.in_features

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        stem = self.relu(self.bn1(self.conv1(x)))
        one = self.layer1(self.maxpool(stem))
        two = self.layer2(one)
        three = self.layer3(two)
        return [stem, one, two, three, self.layer4(three)]

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class TimmPooled(nn.Module):
    """A timm model without its classifier."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        import timm

        self.model = timm.create_model(name, num_classes=0, **options)
        self.width: int = self.model.num_features

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model(x)
        return features


class HandSwav(nn.Module):
    """Two resolutions, one trunk pass each, one projection over both."""

    def __init__(self, trunk: Stages | TimmPooled, hidden: int, prototypes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection = nn.Sequential(
            nn.Linear(trunk.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 128)
        )
        self.prototypes = nn.Linear(128, prototypes, bias=False)

    def forward(self, crops: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        large, small = torch.cat(crops[:2]), torch.cat(crops[2:])
        feature = torch.cat([self.trunk.pooled(large), self.trunk.pooled(small)])
        x = F.normalize(self.projection(feature), dim=1)
        return {"embedding": x, "prototypes": self.prototypes(x)}


class HandPirl(nn.Module):
    """Images and patches through one trunk."""

    def __init__(self, trunk: Stages) -> None:
        super().__init__()
        self.trunk, self.image = trunk, nn.Linear(trunk.width, 128)
        self.first, self.last = nn.Linear(trunk.width, 128), nn.Linear(9 * 128, 128)

    def forward(self, images: torch.Tensor, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        image = self.image(self.trunk.pooled(images))
        rows = self.first(self.trunk.pooled(patches))
        return {"image": image, "jigsaw": self.last(rows.view(rows.size(0) // 9, -1))}


class HandLinear(nn.Module):
    """Five probes on five layers of a frozen trunk."""

    def __init__(self, trunk: Stages, channels: Iterable[int], classes: int) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.probes = nn.ModuleList(nn.ModuleList([nn.BatchNorm2d(c), nn.Linear(c * 4, classes)]) for c in channels)

    def train(self, mode: bool = True) -> HandLinear:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        pooled = [F.adaptive_avg_pool2d(f, 2) for f in self.trunk(images)]
        return [linear(norm(x).flatten(1)) for x, (norm, linear) in zip(pooled, self.probes, strict=True)]


class HandHeads(nn.Module):
    """Linear heads on one pooled feature."""

    def __init__(self, trunk: Stages | TimmPooled, classes: Iterable[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(trunk.width, n) for n in classes)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        feature = self.trunk.pooled(images)
        return [head(feature) for head in self.heads]


class OneByOne(nn.Module):
    """Several inputs through one trunk, one pass for each, as the inputs come; a head over each."""

    def __init__(self, trunk: Stages | TimmPooled, inputs: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(trunk.width, classes) for _ in range(inputs))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return [head(self.trunk.pooled(x)) for x, head in zip(inputs, self.heads, strict=True)]


class VisslLoop(nn.Module):
    """The way VISSL runs a model: stages in a ModuleDict, heads in a list, one trunk pass for each mapping entry."""

    def __init__(self, name: str, entries: list[tuple[str, str]], heads: list[nn.Module]) -> None:
        super().__init__()
        model = getattr(models, name)()
        self.blocks = nn.ModuleDict(
            {
                "conv1": model.conv1, "bn1": model.bn1, "relu": model.relu, "maxpool": model.maxpool,
                "res2": model.layer1, "res3": model.layer2, "res4": model.layer3, "res5": model.layer4,
                "avgpool": model.avgpool, "flatten": nn.Flatten(1),
            }
        )  # fmt: skip
        self.entries, self.heads = entries, nn.ModuleList(heads)

    def trunk(self, x: torch.Tensor, wanted: str) -> torch.Tensor:
        for name, block in self.blocks.items():
            x = block(x)
            if name == wanted:
                break
        return x

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        batch = dict(zip(dict.fromkeys(key for key, _ in self.entries), inputs, strict=True))
        return [head(self.trunk(batch[key], name)) for (key, name), head in zip(self.entries, self.heads, strict=True)]


class VisslEvaluation(nn.Module):
    """VISSL's evaluation of a frozen trunk: blocks in a ModuleDict, features by name, a pooling and a head for each."""

    def __init__(self, name: str, features: list[str], channels: Iterable[int], classes: int) -> None:
        super().__init__()
        self.blocks = VisslLoop(name, [], []).blocks.requires_grad_(False)
        self.features = features
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(2) for _ in features)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.Flatten(1), nn.Linear(c * 4, classes)) for c in channels
        )

    def train(self, mode: bool = True) -> VisslEvaluation:
        super().train(mode)
        self.blocks.eval()
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        x = images
        with torch.no_grad():
            for name, block in self.blocks.items():
                x = block(x)
                if name in self.features:
                    found[name] = x
                if len(found) == len(self.features):
                    break
        pooled = [pool(found[name]) for name, pool in zip(self.features, self.pools, strict=True)]
        return [head(x) for x, head in zip(pooled, self.heads, strict=True)]


class Rows(nn.Module):
    """Joins the rows of a sample."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0) // self.count, -1)


class Conv(nn.Module):
    """Two small convolutions and a mean: a trunk of about a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))).mean((2, 3))


class Nano(nn.Module):
    """Two 8-wide linear layers, some 20 microseconds: nothing but overheads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class HandSmall(nn.Module):
    """A small trunk and a linear head."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


class DinoHeads(nn.Module):
    """DINOv2's published linear evaluation: a ModuleDict of classifiers over tokens of a frozen ViT.

    Each classifier gathers its own input from the tokens, as `LinearClassifier.forward` does there.
    Source: facebookresearch/dinov2, dinov2/eval/linear.py
    """

    def __init__(self, trunk: nn.Module, width: int, classes: int, rates: int) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.settings = [(n, average) for n in (1, 4) for average in (False, True) for _ in range(rates)]
        self.classifiers = nn.ModuleDict(
            {f"classifier_{i}": nn.Linear(width * (n + a), classes) for i, (n, a) in enumerate(self.settings)}
        )

    def train(self, mode: bool = True) -> DinoHeads:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            tokens = self.trunk.get_intermediate_layers(  # type: ignore[operator]
                images, n=4, return_prefix_tokens=True, norm=True
            )
        out = []
        for (n, average), classifier in zip(self.settings, self.classifiers.values(), strict=True):
            parts = [prefix[:, 0] for _, prefix in tokens[-n:]]
            if average:
                parts.append(tokens[-1][0].mean(1))
            out.append(classifier(torch.cat(parts, dim=-1)))
        return out


def torchvision_extractor(name: str, nodes: list[str]) -> nn.Module:
    """torchvision's `create_feature_extractor`."""
    from torchvision.models.feature_extraction import create_feature_extractor

    made: nn.Module = create_feature_extractor(getattr(models, name)(), nodes)
    return made


def timm_features(name: str, indices: tuple[int, ...]) -> nn.Module:
    """timm's `features_only`."""
    import timm

    made: nn.Module = timm.create_model(name, features_only=True, out_indices=indices)
    return made


LossStep = Callable[[], Any]
