"""The examples of DDP, FSDP2 and pipelines on two processes: they learn, and give the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXAMPLES, ROOT

pytestmark = pytest.mark.slow


def run(script: str, *options: str, processes: int = 2) -> dict[str, Any]:
    """What an example reports, run by torchrun or, for one process, by itself."""
    report = Path("report.json").absolute()
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, str(EXAMPLES / "embed" / f"{script}.py"), *options, "--report", str(report)]
    places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def assert_learns(report: dict[str, Any]) -> None:
    assert report["losses"][-1] < report["losses"][0] / 3
    assert report["accuracy"] > 0.7


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True))


def test_ddp_learns() -> None:
    assert_learns(run("ddp"))


def test_ddp_with_frozen_norms_gives_the_losses_of_one_process() -> None:
    options = ("--double", "--steps", "12", "--freeze")
    two, one = run("ddp", *options), run("ddp", *options, processes=1)
    assert largest_difference(two, one) < 1e-8
    assert not two["frozen_moved"]


def test_ddp_with_synchronized_norms_and_torch_compile_gives_the_losses_of_one_process() -> None:
    options = ("--double", "--steps", "6")
    one = run("ddp", *options, processes=1)
    assert one["frozen_moved"]
    for further in ((), ("--compile", "inside"), ("--compile", "outside")):
        assert largest_difference(run("ddp", *options, *further), one) < 1e-8, further


def test_fsdp2_learns_and_saves_shards() -> None:
    folder = str(Path("checkpoint").absolute())
    two = run("fsdp2", "--checkpoint", folder)
    assert_learns(two)
    assert two["reloaded"] == {key: two[key] for key in ("accuracy", "test_loss")}
    single = run("fsdp2", "--load", folder, processes=1)
    assert single["test_loss"] == pytest.approx(two["test_loss"], abs=1e-6)


def test_fsdp2_with_a_frozen_trunk_gives_the_losses_of_one_process() -> None:
    options = ("--double", "--steps", "12", "--freeze")
    two, one = run("fsdp2", *options), run("fsdp2", *options, processes=1)
    assert two["losses"][-1] < two["losses"][0]
    assert largest_difference(two, one) < 1e-6


def test_a_pipeline_gives_the_losses_of_one_process() -> None:
    one = run("pipeline", processes=1)
    for schedule in ("gpipe", "1f1b"):
        two = run("pipeline", "--schedule", schedule)
        assert two["losses"][-1] < two["losses"][0] / 3
        assert largest_difference(two, one) < 1e-6
