"""Shared fixtures: small models, and what keeps tests independent of each other.

Tests run in a random order: pytest-randomly prints its seed, and `pytest --randomly-seed=N` repeats it. They
run on one thread, since the machines are small and shared.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from graphmodel.components import registry

torch.set_num_threads(1)
gc.disable()  # until the tests are collected

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def pytest_collection_finish() -> None:
    """Leaves libraries and tests out of garbage collections: going through them again took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs each test in an empty directory: none depends on the current directory or leaves files in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """Seeds torch for each test, so that numbers do not depend on the tests that ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_registrations() -> Iterator[None]:
    """Removes the heads and trunks that a test registers.

    The built-in ones stay, since Python imports their modules only once; so do those that were registered before.
    """
    with registry.temporary_registrations():
        yield


@pytest.fixture
def small() -> dict[str, Any]:
    """One input, a ResNet-18, one linear head."""
    return {
        "inputs": {"images": {"shape": [3, 64, 64]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    }


TWO_INPUTS: dict[str, Any] = {
    "name": "pirl",
    "inputs": {"images": {"shape": [3, 64, 64]}, "patches": {"shape": [3, 32, 32]}},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
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


@pytest.fixture
def two_inputs() -> dict[str, Any]:
    """PIRL in small: images and nine patches per sample, a head for each."""
    return deepcopy(TWO_INPUTS)
