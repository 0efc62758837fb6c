"""Methods that hide or shuffle patches of images, by hand: PIRL, Jigsaw, masked images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.recipes.cases import Case, Outputs, images, labels, trunk
from tests.recipes.reference_prototypes import SMALL_VIT
from tests.recipes.reference_vit import MaskedViT


class PIRL(nn.Module):
    """Misra & van der Maaten 2020, figure 3: a linear layer, and one of nine concatenated linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.image, self.patch, self.joined = trunk(), *(nn.Linear(w, 8) for w in (512, 512, 72))

    def forward(self, images: torch.Tensor, patches: torch.Tensor) -> Outputs:
        whole = self.image(self.trunk(images))
        each = self.patch(self.trunk(patches))
        rows = torch.stack([torch.cat(list(each[9 * i : 9 * i + 9])) for i in range(len(patches) // 9)])
        return {"image": whole, "jigsaw": self.joined(rows)}


def pirl_loss(out: Outputs) -> torch.Tensor:
    """Both embeddings of an image against a memory of all images; here the batch is the memory."""
    memory = F.normalize(out["image"].detach(), dim=1)
    scores = [F.normalize(out[name], dim=1) @ memory.T / 0.07 for name in ("image", "jigsaw")]
    return sum(F.cross_entropy(s, torch.arange(len(s))) for s in scores) / 2


class Jigsaw(nn.Module):
    """Goyal et al. 2019: 1,000 features of each patch, a linear layer on those of all nine."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.patch = nn.Sequential(nn.Linear(512, 10), nn.BatchNorm1d(10), nn.ReLU())
        self.classify = nn.Linear(90, 20)

    def forward(self, patches: torch.Tensor) -> Outputs:
        each = self.patch(self.trunk(patches))
        return {"permutation": self.classify(each.view(-1, 90))}


class MaskedImages(nn.Module):
    """SimMIM's encoder and decoder on a vision transformer, with the loss of facebookresearch/mae, models_mae.py."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.pixels = MaskedViT(32, 8, 16, 2, 4, 32), nn.Linear(16, 192)

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> Outputs:
        return {"pixels": self.pixels(self.trunk(images, mask)[:, 1:])}


MASK = torch.arange(32).view(2, 4, 4) % 4 > 0
PICTURES = torch.linspace(-1, 1, 2 * 3 * 32 * 32, dtype=torch.float64).sin().view(2, 3, 32, 32)


def masked_loss(out: Outputs) -> torch.Tensor:
    """The mean squared error of the hidden patches, each normalized."""
    patches = F.unfold(PICTURES, 8, stride=8).transpose(1, 2)
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    return (out["pixels"] - target).square().mean(-1)[MASK.flatten(1)].mean()


CASES = {
    "masked_images": Case(
        [
            "inputs.images.shape=[3,32,32]",
            "inputs.mask.shape=[4,4]",
            *(f"trunk.{o}" for o in SMALL_VIT),
            "heads.pixels.linear.out_features=192",
        ],
        MaskedImages,
        {"trunk": "trunk", "pixels": "heads.pixels"},
        lambda: [PICTURES, MASK],
        masked_loss,
    ),
    "pirl": Case(
        [
            "trunk.depth=18",
            "inputs.images=[3,32,32]",
            "inputs.patches=[3,16,16]",
            "heads.image.mlp.dims=[auto,8]",
            "heads.jigsaw.0.mlp.dims=[auto,8]",
            "heads.jigsaw.2.mlp.dims=[auto,8]",
        ],
        PIRL,
        {
            "trunk": "trunk",
            "image": "heads.image.clf.0",
            "patch": "heads.jigsaw.0.clf.0",
            "joined": "heads.jigsaw.2.clf.0",
        },
        lambda: [images(2, 32), images(18, 16)],
        pirl_loss,
    ),
    "jigsaw": Case(
        [
            "trunk.depth=18",
            "inputs.patches=[3,16,16]",
            "heads.permutation.0.mlp.dims=[auto,10]",
            "heads.permutation.2.mlp.dims=[auto,20]",
        ],
        Jigsaw,
        {"trunk": "trunk", "patch": "heads.permutation.0.clf", "classify": "heads.permutation.2.clf.0"},
        lambda: [images(18, 16)],
        lambda out: F.cross_entropy(out["permutation"], labels(2, 20)),
    ),
}
