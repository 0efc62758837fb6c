"""A plain training loop: the compiled model is an ordinary module.

python examples/embed/plain_loop.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from digits import TRUNK, digits, nearest_neighbours, summary, view

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 16, 16]},
    "trunk": TRUNK,
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}, "even": {"mlp": {"dims": ["auto", 2]}}},
}


def main(steps: int = 150) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = digits()
    images, labels, test_images, test_labels = data
    model = graphmodel.compile(SPEC, seed=0)
    groups = graphmodel.param_groups(model, lr=5e-3, weight_decay=0.05, layer_decay=0.8)
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for step in range(steps):
        batch = torch.randint(len(images), (64,))
        out = model(view(images[batch]))
        loss = F.cross_entropy(out["digit"], labels[batch]) + F.cross_entropy(out["even"], labels[batch] % 2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 25 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}")
    model.eval()
    with torch.no_grad():
        accuracy = (model(test_images)["digit"].argmax(1) == test_labels).float().mean().item()
    untrained = nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
