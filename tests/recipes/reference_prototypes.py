"""Methods that assign views to prototypes, by hand: SwAV, DINO, iBOT."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.recipes.cases import Case, Outputs, cross_entropy_to, images, trunk
from tests.recipes.reference_vit import MaskedViT, ViT

SIZES = (32, 8, 16, 2, 4, 32)  # image, patch, width, blocks, heads, hidden width
SMALL_VIT = ["image_size=32", "patch_size=8", "hidden_dim=16", "num_layers=2", "num_heads=4", "mlp_dim=32"]
SMALL_STUDENT = [f"trunks.student.{o}" for o in (*SMALL_VIT, "drop_path_rate=0")]


class SwAV(nn.Module):
    """facebookresearch/swav, src/resnet50.py: crops of one size together, the head on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.head = nn.ModuleDict(
            {
                "projection_head": nn.Sequential(nn.Linear(512, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16)),
                "prototypes0": nn.Linear(16, 12, bias=False),
            }
        )

    def forward(self, crops: list[torch.Tensor]) -> Outputs:
        features = torch.cat([self.trunk(torch.cat(crops[:2])), self.trunk(torch.cat(crops[2:]))])
        z = self.head["projection_head"](features)
        z = z / z.norm(dim=1, keepdim=True)
        return {"swav.embedding": z, "swav.prototypes0": self.head["prototypes0"](z)}


@torch.no_grad()
def sinkhorn(scores: torch.Tensor) -> torch.Tensor:
    """Assignments that use all prototypes equally, three rounds."""
    q = (scores / 0.05).exp().T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdim=True) * q.shape[0]
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


def swapped_prediction(out: Outputs) -> torch.Tensor:
    crops = out["swav.prototypes0"].chunk(4)
    losses = []
    for i in (0, 1):
        q = sinkhorn(crops[i])
        losses += [cross_entropy_to(q, crops[j] / 0.1) for j in range(4) if j != i]
    return torch.stack(losses).mean()


class WeightNorm(nn.Module):
    """Prototypes of a direction and a length."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1))
        self.weight_v = nn.Parameter(torch.randn(count, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight_v / self.weight_v.norm(dim=1, keepdim=True) * self.weight_g).T


class Head(nn.Module):
    """facebookresearch/dino, vision_transformer.py, DINOHead: three layers, a bottleneck, prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 8))
        self.prototypes0 = WeightNorm(8, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prototypes0(F.normalize(self.mlp(x), dim=-1))


class DINO(nn.Module):
    """facebookresearch/dino, main_dino.py."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.project = ViT(*SIZES), Head()
        self.teacher, self.target = copy.deepcopy(self.student), copy.deepcopy(self.project)
        for part in (self.teacher, self.target):
            part.requires_grad_(False)

    def forward(self, large: list[torch.Tensor], small: list[torch.Tensor]) -> Outputs:
        cls = torch.cat([self.student(torch.cat(crops))[:, 0] for crops in (large, small)])
        scores = self.project(cls)  # the head runs once, on the class tokens of all crops
        count = 2 * len(large[0])
        target = torch.cat([self.target(self.teacher(crop)[:, 0]) for crop in large])
        return {"of_large": scores[:count], "of_small": scores[count:], "target": target}


def dino_loss(out: Outputs) -> torch.Tensor:
    """Each crop predicts the teacher's assignment of each other large crop; the center is that of this batch."""
    target = ((out["target"] - out["target"].mean(0)) / 0.04).softmax(-1).chunk(2)
    crops = [*(out["of_large"] / 0.1).chunk(2), *(out["of_small"] / 0.1).chunk(2)]
    terms = [cross_entropy_to(q, p) for i, q in enumerate(target) for j, p in enumerate(crops) if i != j]
    return torch.stack(terms).mean()


class IBOT(nn.Module):
    """bytedance/ibot, main_ibot.py with a shared head."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.project = MaskedViT(*SIZES), Head()
        self.project.prototypes1 = self.project.prototypes0
        self.teacher, self.target = ViT(*SIZES), copy.deepcopy(self.project)  # no patch is hidden from the teacher
        for part in (self.teacher, self.target):
            part.requires_grad_(False)

    def forward(
        self, large: list[torch.Tensor], mask: list[torch.Tensor], whole: list[torch.Tensor], small: list[torch.Tensor]
    ) -> Outputs:
        tokens = self.project(self.student(torch.cat(large), torch.cat(mask)))
        local = self.project(self.student(torch.cat(small))[:, 0])
        target = self.target(self.teacher(torch.cat(whole)))
        return {
            "of_large.class": tokens[:, 0],
            "of_large.patches": tokens[:, 1:],
            "of_small": local,
            "target.class": target[:, 0],
            "target.patches": target[:, 1:],
        }


HIDDEN = (torch.arange(32).view(2, 4, 4) % 3 == 0).repeat(2, 1, 1)
"""Masks of two views of two images."""


def ibot_loss(out: Outputs) -> torch.Tensor:
    """DINO's loss of the class tokens, and the same of each hidden patch within its own view."""
    whole = {"of_large": out["of_large.class"], "of_small": out["of_small"], "target": out["target.class"]}
    target = (out["target.patches"] / 0.07).softmax(-1)[HIDDEN.flatten(1)]
    return dino_loss(whole) + cross_entropy_to(target, out["of_large.patches"][HIDDEN.flatten(1)] / 0.1)


def crops() -> list[list[torch.Tensor]]:
    return [[images(2, 32), images(2, 32)], [images(2, 16), images(2, 16)]]


def masked_crops() -> list[Any]:
    large, small = crops()
    return [large, [*HIDDEN.chunk(2)], large, small]


TWO = "[{count: 2, shape: [3,32,32]}]"
TWO_SMALL = "[{count: 2, shape: [3,16,16]}]"
NETWORKS = {
    "student": "trunks.student",
    "teacher": "trunks.teacher",
    "project": "heads.project",
    "target": "heads.target",
}
AVERAGED = {"teacher": "student", "target": "project"}

CASES = {
    "swav": Case(
        [
            "trunk.depth=18",
            "inputs.crops.views=[{count: 2, shape: [3,32,32]}, {count: 2, shape: [3,16,16]}]",
            "heads.swav.swav_head.dims=[auto,32,16]",
            "heads.swav.swav_head.num_clusters=[12]",
        ],
        SwAV,
        {"trunk": "trunk", "head": "heads.swav"},
        lambda: [[images(4, 32), images(4, 32), images(4, 16), images(4, 16)]],
        swapped_prediction,
    ),
    "dino": Case(
        [
            f"inputs.large.views={TWO}",
            f"inputs.small.views={TWO_SMALL}",
            *SMALL_STUDENT,
            *(f"heads.project.dino_head.{o}" for o in ("num_clusters=[12]", "hidden_dim=24", "bottleneck_dim=8")),
        ],
        DINO,
        NETWORKS,
        crops,
        dino_loss,
        AVERAGED,
    ),
    "ibot": Case(
        [
            f"inputs.large.views={TWO}",
            f"inputs.whole.views={TWO}",
            "inputs.mask.views=[{count: 2, shape: [4,4]}]",
            f"inputs.small.views={TWO_SMALL}",
            *SMALL_STUDENT,
            *(f"heads.project.ibot_head.{o}" for o in ("out_dim=12", "hidden_dim=24", "bottleneck_dim=8")),
        ],
        IBOT,
        NETWORKS,
        masked_crops,
        ibot_loss,
        AVERAGED,
    ),
}
