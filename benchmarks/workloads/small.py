"""Models so small that only overheads count."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

import graphmodel
from benchmarks import baselines, harness
from benchmarks.harness import Row, Settings
from benchmarks.workloads.registry import compare, linear, workload

graphmodel.register_trunk("benchmark_conv")(baselines.Conv)
graphmodel.register_trunk("benchmark_nano")(baselines.Nano)


@workload("one_millisecond")
def one_millisecond(settings: Settings) -> Iterator[Row]:
    """Two small convolutions and a head."""
    spec = {
        "inputs": {"images": {"shape": [3, 32, 32]}}, "trunk": "benchmark_conv", "heads": {"head": linear(4)},
        "returns": "tensor",
    }  # fmt: skip
    yield from noise(settings)
    yield from compare(
        "one_millisecond", settings, graphmodel.compile(spec, seed=0),
        {"hand-written": baselines.HandSmall(baselines.Conv(), 32)}, [torch.randn(8, 3, 32, 32)],
        repeat=50, note="2 convolutions, batch 8, 32 px",
    )  # fmt: skip


@workload("thirty_microseconds")
def thirty_microseconds(settings: Settings) -> Iterator[Row]:
    """Three 8-wide linear layers on two samples; there is no target, since a check of the input alone shows."""
    spec = {
        "inputs": {"images": {"shape": [8]}}, "trunk": "benchmark_nano", "heads": {"head": linear(4)},
        "returns": "tensor",
    }  # fmt: skip
    yield from compare(
        "thirty_microseconds", settings, graphmodel.compile(spec, seed=0),
        {"hand-written": baselines.HandSmall(baselines.Nano(), 8)}, [torch.randn(2, 8)],
        repeat=300, note="3 linear layers of width 8, batch 2", targets={"hand-written": None},
        memory=False, compiled=False,
    )  # fmt: skip


def noise(settings: Settings) -> Iterator[Row]:
    """A hand-written module against a copy of itself: how far from 1 a ratio is by chance on this machine."""
    hand, x = baselines.HandSmall(baselines.Conv(), 32), torch.randn(8, 3, 32, 32)
    sides = {"hand-written": hand, "copy": copy.deepcopy(hand)}
    steps = {
        label: harness.forward_step(side.to(settings.device), [x.to(settings.device)]) for label, side in sides.items()
    }
    times = harness.interleave(steps, settings.pairs * 4, settings.device, 50)
    yield harness.ratio_row(
        "one_millisecond", "noise: forward of two copies", times, "copy", "hand-written", settings,
        baseline="hand-written", note="the same module twice: 1 but for noise",
    )  # fmt: skip
