"""SimSiam: a predictor and a stop-gradient, which is `detach` in the spec; no negatives and no teacher.

python examples/embed/simsiam.py

Source: Chen & He 2020 (arXiv:2011.10566).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from digits import TRUNK, mnist, nearest_neighbours, summary, view

import graphmodel

MLP = {"use_bn": True, "use_relu": True}
SPEC = {
    "inputs": {"views": {"views": [{"count": 2, "shape": [3, 16, 16]}]}},
    "trunk": TRUNK,
    "heads": {
        "project": {"mlp": {"dims": ["auto", 128, 128], **MLP}},
        "predict": {"mlp": {"dims": ["auto", 32, 128], **MLP}},
    },
    "mapping": [
        {"from": "views.flatten", "head": "project", "as": "z"},
        {"from": "z", "head": "predict", "as": "p"},
        {"from": "z", "detach": True, "as": "target"},
    ],
    "outputs": ["p", "target"],
}


def main(steps: int = 160) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = mnist()
    images = data[0]
    model = graphmodel.compile(SPEC, seed=0)
    optimizer = torch.optim.SGD(graphmodel.param_groups(model, lr=0.05, weight_decay=1e-4), momentum=0.9)
    losses = []
    for step in range(steps):
        x = images[torch.randint(len(images), (64,))]
        out = model([view(x), view(x)])
        p1, p2 = out["p"].chunk(2)
        z1, z2 = out["target"].chunk(2)
        loss = -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0:
            spread = F.normalize(z1, dim=1).std(0).mean().item() * z1.shape[1] ** 0.5
            print(f"step {step}: loss {loss:.3f}, spread {spread:.2f} (0 if it collapses, 1 at best)")
    accuracy, untrained = nearest_neighbours(data, model.trunk), nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
