"""Compiled models in other people's trainers: the examples learn, and score above what an untrained trunk gives."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import EXAMPLES

pytestmark = pytest.mark.slow

EMBED = EXAMPLES / "embed"


@pytest.fixture(autouse=True)
def _examples_import_each_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples are scripts of one folder; a module of the same name elsewhere is not touched."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EMBED))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EMBED)) and name != "digits":
            del sys.modules[name]


def train(name: str, **options: Any) -> tuple[list[float], float, float]:
    found: tuple[list[float], float, float] = importlib.import_module(name).main(**options)
    return found


@pytest.mark.parametrize("name", ["plain_loop", "with_lightning", "hf_trainer", "with_accelerate"])
def test_supervised_examples_learn(name: str) -> None:
    if name == "with_accelerate":
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)  # one for each process, which another test may have made
    losses, accuracy, untrained = train(name)
    assert sum(losses[-5:]) < sum(losses[:5]) / 4
    assert accuracy > 0.9
    assert accuracy > untrained + 0.05


@pytest.mark.parametrize(
    ("name", "fraction"),
    [("byol", 0.25), ("pirl", 0.85), ("swav", 0.75)],
)
def test_self_supervised_examples_learn(name: str, fraction: float) -> None:
    losses, accuracy, untrained = train(name)
    assert sum(losses[-5:]) < sum(losses[:5]) * fraction
    assert accuracy > untrained + 0.05


def test_simsiam_learns_without_collapsing() -> None:
    losses, accuracy, untrained = train("simsiam")
    assert losses[0] > -0.2
    assert -1 < losses[-1] < -0.5  # minus a cosine
    assert accuracy > untrained + 0.05
