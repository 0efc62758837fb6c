"""A tiny model and tiny images for the tests of extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import graphmodel

TRUNK = {"name": "resnet", "depth": 18, "freeze": True}
SPEC = {
    "inputs": {"images": {"shape": [3, 16, 16], "transform": [{"resize": 18}, {"center_crop": 16}, "to_tensor"]}},
    "trunk": TRUNK,
    "mapping": {"images": {"res2": None, "flatten": None}},
}


def model(seed: int = 0, spec=SPEC):
    return graphmodel.compile(spec, seed=seed)


def expected(module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the bare module gives in eval mode."""
    module.eval()
    with torch.inference_mode():
        return module(images)


def data(count: int = 8) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) * 10)


def write_images(folder: Path, count: int = 8, classes: tuple[str, ...] = ("cat", "dog")) -> list[Path]:
    """Images in class directories, sorted as ImageFolder sorts them."""
    drawn = np.random.default_rng(0)
    made = []
    for i in range(count):
        place = folder / classes[i * len(classes) // count]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (20, 24, 3), np.uint8)).save(place / f"{i:03}.png")
        made.append(place / f"{i:03}.png")
    return made
