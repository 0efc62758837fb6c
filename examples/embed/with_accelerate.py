"""Hugging Face's Accelerate: the plain loop, prepared for whatever `accelerate launch` runs it on.

python examples/embed/with_accelerate.py        # or: accelerate launch examples/embed/with_accelerate.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from digits import TRUNK, digits, nearest_neighbours, summary, view
from torch.utils.data import DataLoader, TensorDataset

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 16, 16]},
    "trunk": TRUNK,
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}},
}


def main(epochs: int = 4, mixed_precision: str = "bf16") -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = digits()
    images, labels, test_images, test_labels = data
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision, gradient_accumulation_steps=2)
    model = graphmodel.compile(SPEC, seed=0)
    optimizer = torch.optim.AdamW(graphmodel.param_groups(model, lr=5e-3, weight_decay=0.05))
    loader = DataLoader(TensorDataset(view(images), labels), batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x)["digit"], y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    trained = accelerator.unwrap_model(model).eval()
    with torch.no_grad():
        accuracy = (trained(test_images)["digit"].argmax(1) == test_labels).float().mean().item()
    untrained = nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
