"""The examples of DDP, FSDP2 and pipelines on two processes: they learn, and give the numbers of one process."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXAMPLES, ROOT

pytestmark = pytest.mark.slow

EXACT = ("--double", "--steps", "6")
RUNS: dict[str, tuple[str, ...]] = {
    "ddp": ("ddp",),
    "ddp, frozen": ("ddp", *EXACT, "--freeze"),
    "ddp, synchronized": ("ddp", *EXACT),
    "ddp, compiled inside": ("ddp", *EXACT, "--compile", "inside"),
    "ddp, compiled outside": ("ddp", *EXACT, "--compile", "outside"),
    "fsdp2": ("fsdp2", "--checkpoint", "checkpoint"),
    "fsdp2, frozen": ("fsdp2", *EXACT, "--freeze"),
    "gpipe": ("pipeline", "--schedule", "gpipe"),
    "1f1b": ("pipeline", "--schedule", "1f1b"),
    "costs": ("shard_costs",),
    "pipelines": ("pipeline_cases",),
}
"""What two processes run, in one group."""


def run(folder: Path, runs: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """What the examples report that torchrun runs on two processes in a folder."""
    listed = [[script, [*options, "--report", f"{i}.json"]] for i, (script, *options) in enumerate(runs.values())]
    (folder / "runs.json").write_text(json.dumps(listed), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests" / "two_processes.py"), "runs.json"]
    places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-5000:]
    return {name: json.loads((folder / f"{i}.json").read_text("utf-8")) for i, name in enumerate(runs)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, dict[str, Any]]:
    """What each run reports on two processes."""
    return run(folder, RUNS)


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example in this process."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "embed"))

    def start(script: str, *options: str) -> dict[str, Any]:
        importlib.import_module(script).main([*options, "--report", "one.json"])
        found: dict[str, Any] = json.loads(Path("one.json").read_text("utf-8"))
        return found

    return start


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True))


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_learn(two: dict[str, dict[str, Any]], name: str) -> None:
    losses = two[name]["losses"]
    assert sum(losses[-5:]) < sum(losses[:5]) / 3
    assert two[name]["accuracy"] > 0.9


def test_ddp_with_frozen_norms_gives_the_losses_of_one_process(two: dict[str, dict[str, Any]], one: Any) -> None:
    assert largest_difference(two["ddp, frozen"], one(*RUNS["ddp, frozen"])) < 1e-8
    assert not two["ddp, frozen"]["frozen_moved"]


def test_ddp_with_synchronized_norms_and_torch_compile_gives_the_losses_of_one_process(
    two: dict[str, dict[str, Any]], one: Any
) -> None:
    single = one(*RUNS["ddp, synchronized"])
    assert single["frozen_moved"]
    for name in ("ddp, synchronized", "ddp, compiled inside", "ddp, compiled outside"):
        assert largest_difference(two[name], single) < 1e-8, name


def test_fsdp2_loads_its_checkpoint_into_two_processes_and_into_one(
    two: dict[str, dict[str, Any]], one: Any, folder: Path
) -> None:
    sharded = two["fsdp2"]
    assert sharded["reloaded"] == {key: sharded[key] for key in ("accuracy", "test_loss")}
    single = one("fsdp2", "--load", str(folder / "checkpoint"))
    assert single["test_loss"] == pytest.approx(sharded["test_loss"], abs=1e-6)


def test_fsdp2_with_a_frozen_trunk_gives_the_losses_of_one_process(two: dict[str, dict[str, Any]], one: Any) -> None:
    assert two["fsdp2, frozen"]["losses"][-1] < two["fsdp2, frozen"]["losses"][0]
    assert largest_difference(two["fsdp2, frozen"], one(*RUNS["fsdp2, frozen"])) < 1e-6


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_pipeline_gives_the_losses_of_one_process(two: dict[str, dict[str, Any]], one: Any, schedule: str) -> None:
    assert two[schedule]["losses"][-1] < two[schedule]["losses"][0] / 3
    assert largest_difference(two[schedule], one("pipeline")) < 1e-6


def test_processes_hold_and_receive_what_the_table_of_costs_says(two: dict[str, dict[str, Any]]) -> None:
    found = two["costs"]
    assert len(found["collectives"]) == 2, "gathering and scattering"
    for measured in found["measured"]:
        assert measured == found["computed"]


@pytest.mark.parametrize("name", ["vit", "crops"])
def test_pipelines_of_other_models_give_the_gradients_of_one_process(two: dict[str, dict[str, Any]], name: str) -> None:
    assert two["pipelines"][name] < 1e-9
