"""Methods that compare views by their embeddings, by hand: SimCLR.

Each follows the paper's own code, so that it runs views one by one or together as that code does.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.recipes.cases import Case, Outputs, images, trunk


class SimCLR(nn.Module):
    """google-research/simclr: both views in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = trunk()
        self.head = nn.Sequential(
            nn.Linear(512, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16, bias=False)
        )

    def forward(self, views: list[torch.Tensor]) -> Outputs:
        z = self.head(self.encoder(torch.cat(views)))
        return {"z": z / z.norm(dim=1, keepdim=True)}


def nt_xent(out: Outputs) -> torch.Tensor:
    """The normalised, temperature-scaled cross-entropy: the other view among all others."""
    z = out["z"]
    count = len(z) // 2
    scores = (z @ z.T / 0.1).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(2 * count).roll(count))


def two_views() -> list[torch.Tensor]:
    return [images(4, 32), images(4, 32)]


CASES = {
    "simclr": Case(
        ["trunk.depth=18", "inputs.views.views=[{count: 2, shape: [3,32,32]}]", "heads.project.mlp.dims=[auto,32,16]"],
        SimCLR,
        {"encoder": "trunk", "head": "heads.project.clf"},
        lambda: [two_views()],
        nt_xent,
    ),
}
