"""BYOL: a student predicts what a teacher projects, and the teacher is the moving average of the student.

python examples/embed/byol.py

Source: Grill et al. 2020 (arXiv:2006.07733).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from digits import TRUNK, mnist, nearest_neighbours, summary, view

import graphmodel

MLP = {"use_bn": True, "use_relu": True}
SPEC = {
    "inputs": {"views": {"views": [{"count": 2, "shape": [3, 16, 16]}]}},
    "trunks": {"student": TRUNK, "teacher": {"copy": "student"}},
    "heads": {
        "project": {"mlp": {"dims": ["auto", 128, 64], **MLP}},
        "predict": {"mlp": {"dims": ["auto", 128, 64], **MLP}},
        "target": {"copy": "project"},
    },
    "mapping": {
        "views": {"student.flatten": "project", "teacher.flatten": "target"},
        "project": "predict",
    },
    "outputs": ["predict", "target"],
}


def main(steps: int = 160) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = mnist()
    images = data[0]
    model = graphmodel.compile(SPEC, seed=0)
    optimizer = torch.optim.SGD(graphmodel.param_groups(model, lr=0.1, weight_decay=1e-4), momentum=0.9)
    losses = []
    for step in range(steps):
        x = images[torch.randint(len(images), (64,))]
        out = model([view(x), view(x)])
        p1, p2 = out["predict"].chunk(2)
        z1, z2 = out["target"].chunk(2)
        loss = 2 - F.cosine_similarity(p1, z2).mean() - F.cosine_similarity(p2, z1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        graphmodel.update_teacher(model, 1 - 0.04 * (math.cos(math.pi * step / steps) + 1) / 2)
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {loss:.3f}")
    accuracy, untrained = nearest_neighbours(data, model.trunks.teacher), nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
