"""SwAV: two large and two small crops, clusters by Sinkhorn-Knopp, prototypes that start to train later.

python examples/embed/swav.py

Source: Caron et al. 2020 (arXiv:2006.09882); without its queue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from digits import TRUNK, mnist, nearest_neighbours, summary, view

import graphmodel

LARGE, SMALL = 2, 2
SPEC = {
    "inputs": {"crops": {"views": [{"count": LARGE, "shape": [3, 16, 16]}, {"count": SMALL, "shape": [3, 8, 8]}]}},
    "trunk": TRUNK,
    "heads": {"swav": {"swav_head": {"dims": ["auto", 128, 64], "use_bn": True, "num_clusters": [30]}}},
    "mapping": {"crops": {"flatten": "swav"}},
}


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float = 0.01, rounds: int = 3) -> torch.Tensor:
    """Assigns the rows of scores (N, K) to clusters of equal size; each row sums to 1.

    The paper's epsilon is 0.05, with which the codes of this small network stayed nearly uniform, and the loss at the
    logarithm of the number of clusters; with 0.01 they do not.
    """
    q = torch.exp((scores - scores.max()) / epsilon).T
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(1, keepdim=True) * len(q)
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


def swapped_prediction(scores: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """The clusters of each large crop, predicted by all other crops."""
    crops = scores.chunk(LARGE + SMALL)
    losses: list[torch.Tensor] = []
    for large in range(LARGE):
        target = sinkhorn(crops[large])
        others = [crop for i, crop in enumerate(crops) if i != large]
        losses += [-(target * F.log_softmax(other / temperature, 1)).sum(1).mean() for other in others]
    return torch.stack(losses).mean()


def main(steps: int = 160) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = mnist()
    images = data[0]
    model = graphmodel.compile(SPEC, seed=0)
    optimizer = torch.optim.AdamW(graphmodel.param_groups(model, lr=5e-3, weight_decay=1e-4))
    freeze = graphmodel.FreezeUntil(model, {"heads.swav.prototypes0": 20})
    prototypes = model.heads.swav.prototypes0.weight
    losses = []
    for step in range(steps):
        with torch.no_grad():
            prototypes.copy_(F.normalize(prototypes, dim=1))
        x = images[torch.randint(len(images), (64,))]
        crops = [view(x) for _ in range(LARGE)] + [view(x, 8, (0.4, 0.7)) for _ in range(SMALL)]
        loss = swapped_prediction(model(crops)["swav.prototypes0"])
        loss.backward()
        freeze(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {loss:.3f}")
    accuracy, untrained = nearest_neighbours(data, model.trunk), nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
