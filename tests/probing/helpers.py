"""A small frozen model with heads, and a store of its features that has something to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

import graphmodel

CLASSES = 6
TRUNK = {"name": "timm:test_resnet", "freeze": True}
HEADS = {
    "slow": {"mlp": {"dims": ["auto", CLASSES]}},
    "fast": {"mlp": {"dims": ["auto", CLASSES]}},
    "normed": {"eval_mlp": {"in_channels": 96, "dims": [96, CLASSES]}},
    "early": {"mlp": {"dims": ["auto", CLASSES]}},
}
MAPPING = {
    "images": {"flatten": ["slow", "fast", "normed"], "res3": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["early"]}}
}
SPEC: dict[str, Any] = {
    "name": "small",
    "inputs": {"images": [3, 32, 32]},
    "trunk": TRUNK,
    "heads": HEADS,
    "mapping": MAPPING,
}
LR = {"slow": 0.001, "fast": 0.1, "normed": 0.02, "early": 0.05}


def model(spec: Any = SPEC, seed: int = 0, **changes: Any) -> Any:
    return graphmodel.compile({**spec, **changes}, seed=seed)


def images(count: int = 60, seed: int = 1, classes: int = CLASSES) -> TensorDataset:
    """Noise of a class's own colour and brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    colours = torch.rand(classes, 3, generator=torch.Generator().manual_seed(0))[labels]
    noise = torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset(0.6 * noise + 2 * colours[:, :, None, None], labels)


def extracted(place: Path, data: Any = None, module: Any = None, **options: Any) -> str:
    """A store of what the heads of the module read."""
    features = graphmodel.split_frozen(module or model())[0]
    graphmodel.extract(features, images() if data is None else data, place, **options)
    return str(place)
