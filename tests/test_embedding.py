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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(how: str) -> None:
    import subprocess

    path = EXAMPLES / "embed" / "distributed.py"
    code = f"""
import sys, torch
sys.path.insert(0, {str(path.parent)!r})
import distributed as d
if __name__ == "__main__":
    found = d.run({how!r})
    model = d.build()
    model(d.batch()).pow(2).mean().backward()
    want = d.gradients(model)
    assert found.keys() == want.keys()
    for name, grad in want.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-5)
    print("equal", len(want))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("equal")
