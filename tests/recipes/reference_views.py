"""Methods that compare two views by their embeddings, by hand: SimCLR, MoCo v3, BYOL, SimSiam, Barlow Twins, VICReg.

Each follows the paper's own code, so that it runs views one by one or together as that code does.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from tests.recipes.cases import Case, Outputs, images, trunk


def mlp(widths: list[int], hidden_bias: bool, last_bias: bool, last_norm: bool = False) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU in between, and BatchNorm without parameters behind."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=hidden_bias), nn.BatchNorm1d(fan_out), nn.ReLU()]
    layers.append(nn.Linear(*widths[-2:], bias=last_bias))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (F.normalize(x, dim=1) * F.normalize(y, dim=1)).sum(1).mean()


class SimCLR(nn.Module):
    """google-research/simclr: both views in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.project = trunk(), mlp([512, 32, 16], hidden_bias=False, last_bias=False, last_norm=True)
        self.project[-1] = nn.BatchNorm1d(16)  # `center=False`: with a scale and without a shift
        self.project[-1].register_parameter("bias", None)

    def forward(self, views: list[torch.Tensor]) -> Outputs:
        z = self.project(self.trunk(torch.cat(views)))
        return {"z": z / z.norm(dim=1, keepdim=True)}


def nt_xent(out: Outputs) -> torch.Tensor:
    """The normalized, temperature-scaled cross-entropy: the other view among all others."""
    z = out["z"]
    count = len(z) // 2
    scores = (z @ z.T / 0.1).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(2 * count).roll(count))


class Averaged(nn.Module):
    """A student with a predictor and its averaged teacher, each view on its own: BYOL and MoCo v3."""

    names: tuple[str, str]

    def __init__(self, project: nn.Module, predict: nn.Module) -> None:
        super().__init__()
        self.student, self.project, self.predict = trunk(), project, predict
        self.teacher, self.target = copy.deepcopy(self.student), copy.deepcopy(self.project)
        for part in (self.teacher, self.target):
            part.requires_grad_(False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> Outputs:
        z1, z2 = (self.project(self.student(x)) for x in (first, second))
        p1, p2 = self.predict(z1), self.predict(z2)
        t1, t2 = (self.target(self.teacher(x)) for x in (first, second))
        predicted, target = self.names
        return {f"{predicted}1": p1, f"{predicted}2": p2, f"{target}1": t1, f"{target}2": t2}


class BYOL(Averaged):
    """google-deepmind/deepmind-research, byol/byol_experiment.py."""

    names = "p", "target"

    def __init__(self) -> None:
        super().__init__(*(mlp([width, 32, 16], hidden_bias=True, last_bias=False) for width in (512, 16)))


def byol_loss(out: Outputs) -> torch.Tensor:
    return 4 - 2 * cosine(out["p1"], out["target2"]) - 2 * cosine(out["p2"], out["target1"])


class MoCo(Averaged):
    """facebookresearch/moco-v3, moco/builder.py, MoCo_ResNet."""

    names = "q", "k"

    def __init__(self) -> None:
        super().__init__(
            mlp([512, 32, 16], hidden_bias=False, last_bias=False, last_norm=True),
            mlp([16, 32, 16], hidden_bias=False, last_bias=False),
        )


def moco_loss(out: Outputs) -> torch.Tensor:
    def contrast(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        scores = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T
        return 2 * 0.2 * F.cross_entropy(scores / 0.2, torch.arange(len(q)))

    return contrast(out["q1"], out["k2"]) + contrast(out["q2"], out["k1"])


class SimSiam(nn.Module):
    """facebookresearch/simsiam, simsiam/builder.py; without the bias before BatchNorm, which does not train there."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.project = mlp([512, 32, 32, 16], hidden_bias=False, last_bias=False, last_norm=True)
        self.predict = mlp([16, 8, 16], hidden_bias=False, last_bias=True)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> Outputs:
        z1, z2 = (self.project(self.trunk(x)) for x in (first, second))
        p1, p2 = self.predict(z1), self.predict(z2)
        return {"p1": p1, "p2": p2, "target1": z1.detach(), "target2": z2.detach()}


def simsiam_loss(out: Outputs) -> torch.Tensor:
    return -(cosine(out["p1"], out["target2"]) + cosine(out["p2"], out["target1"])) / 2


class Twins(nn.Module):
    """Two views through one trunk and one projection, each on its own: Barlow Twins and VICReg."""

    def __init__(self, project: nn.Module) -> None:
        super().__init__()
        self.trunk, self.project = trunk(), project

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> Outputs:
        return {"z1": self.project(self.trunk(first)), "z2": self.project(self.trunk(second))}


class BarlowTwins(Twins):
    """facebookresearch/barlowtwins, main.py; its `bn` is the last layer of the projection."""

    def __init__(self) -> None:
        super().__init__(mlp([512, 32, 32, 16], hidden_bias=False, last_bias=False, last_norm=True))


def barlow_loss(out: Outputs) -> torch.Tensor:
    c = out["z1"].T @ out["z2"] / len(out["z1"])
    on = (c.diagonal() - 1).square().sum()
    return on + 0.0051 * (c.square().sum() - c.diagonal().square().sum())


class VICReg(Twins):
    """facebookresearch/vicreg, main_vicreg.py."""

    def __init__(self) -> None:
        super().__init__(mlp([512, 32, 32, 16], hidden_bias=True, last_bias=False))


def vicreg_loss(out: Outputs) -> torch.Tensor:
    def spread(z: torch.Tensor) -> torch.Tensor:
        covariance = z.T.cov()
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        return 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2 + off / z.shape[1]

    return 25 * F.mse_loss(out["z1"], out["z2"]) + spread(out["z1"]) + spread(out["z2"])


def two_views() -> list[torch.Tensor]:
    return [images(4, 32), images(4, 32)]


PAIR = ["inputs.first=[3,32,32]", "inputs.second=[3,32,32]"]
TEACHER = [
    *PAIR,
    "trunks.student.depth=18",
    "heads.project.mlp.dims=[auto,32,16]",
    "heads.predict.mlp.dims=[auto,32,16]",
]
NETWORKS = {
    "student": "trunks.student",
    "teacher": "trunks.teacher",
    "project": "heads.project.clf",
    "predict": "heads.predict.clf",
    "target": "heads.target.clf",
}
AVERAGED = {"teacher": "student", "target": "project"}


def twins(head: str) -> list[str]:
    return [*PAIR, "trunk.depth=18", f"heads.{head}.mlp.dims=[auto,32,32,16]"]


CASES = {
    "simclr": Case(
        ["trunk.depth=18", "inputs.views.views=[{count: 2, shape: [3,32,32]}]", "heads.project.mlp.dims=[auto,32,16]"],
        SimCLR,
        {"trunk": "trunk", "project": "heads.project.clf"},
        lambda: [two_views()],
        nt_xent,
    ),
    "byol": Case(TEACHER, BYOL, NETWORKS, two_views, byol_loss, AVERAGED),
    "moco_v3": Case(TEACHER, MoCo, NETWORKS, two_views, moco_loss, AVERAGED),
    "simsiam": Case(
        [*twins("project"), "heads.predict.mlp.dims=[auto,8,16]"],
        SimSiam,
        {"trunk": "trunk", "project": "heads.project.clf", "predict": "heads.predict.clf"},
        two_views,
        simsiam_loss,
    ),
    "barlow_twins": Case(
        twins("project"), BarlowTwins, {"trunk": "trunk", "project": "heads.project.clf"}, two_views, barlow_loss
    ),
    "vicreg": Case(twins("expand"), VICReg, {"trunk": "trunk", "project": "heads.expand.clf"}, two_views, vicreg_loss),
}
