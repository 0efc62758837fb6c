"""Shared fixtures: one thread (the machines are small and shared), small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def small() -> dict[str, Any]:
    """One input, a ResNet-18, one linear head."""
    return {
        "inputs": {"images": {"shape": [3, 64, 64]}},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    }


@pytest.fixture
def two_inputs() -> dict[str, Any]:
    """PIRL in small: images and nine patches per sample, a head for each."""
    return {
        "name": "pirl",
        "inputs": {"images": {"shape": [3, 64, 64]}, "patches": {"shape": [3, 32, 32]}},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {
            "image": {"mlp": {"dims": ["auto", 8]}},
            "jigsaw": [
                {"mlp": {"dims": ["auto", 4]}},
                {"siamese_concat_view": {"num_towers": 9}},
                {"mlp": {"dims": ["auto", 8]}},
            ],
        },
        "mapping": {"images": {"flatten": "image"}, "patches": {"flatten": "jigsaw"}},
    }
