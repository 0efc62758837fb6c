"""Compiled models in other people's trainers: the example scripts run and give a single process's numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import EXAMPLES


def example(name: str) -> ModuleType:
    path: Path = EXAMPLES / "embed" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the processes that the example starts import it by name
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_plain_loop_trains() -> None:
    losses = example("plain_loop").main(steps=5)
    assert len(losses) == 5
    assert losses[-1] < losses[0]
