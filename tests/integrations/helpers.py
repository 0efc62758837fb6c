"""A small model, and a plain loop on fixed batches, which trainers are compared with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 16, 16]},
    "trunk": {
        "name": "regnet",
        "variant": "anynet",
        "depths": [1, 1],
        "widths": [16, 32],
        "group_widths": [8, 8],
        "bottleneck_multipliers": [1.0, 1.0],
        "strides": [2, 2],
    },
    "heads": {"digit": {"mlp": {"dims": ["auto", 4]}}, "even": {"mlp": {"dims": ["auto", 2]}}},
}
ONE = {**SPEC, "heads": {"digit": SPEC["heads"]["digit"]}}
IMAGES = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4
RATE, DECAY, BATCH = 1e-2, 0.05, 8


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(graphmodel.param_groups(model, lr=RATE, weight_decay=DECAY))


def plain_loop(
    model: nn.Module, names: tuple[str, ...] = ("digit",), clip: float | None = None, bf16: bool = False
) -> list[float]:
    """Trains for an epoch and returns the losses."""
    optimizer = optimizer_of(model)
    losses = []
    for x, y in zip(IMAGES.split(BATCH), LABELS.split(BATCH), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(x)
            loss = torch.stack([F.cross_entropy(out[name], y % out[name].shape[1]) for name in names]).sum()
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same_state(found: nn.Module, wanted: nn.Module) -> None:
    first, second = found.state_dict(), wanted.state_dict()
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
