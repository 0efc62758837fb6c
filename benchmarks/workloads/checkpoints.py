"""Checkpointing under a memory budget: the planned peak beside the measured one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

import graphmodel
from benchmarks import harness
from benchmarks.harness import Row, Settings, SkipWorkload, Target
from benchmarks.workloads.registry import linear, workload

TRUNKS: dict[str, Any] = {
    "ResNet-50": {"name": "resnet", "depth": 50},
    "ViT-S/16": {"name": "timm:vit_small_patch16_224"},
    "ConvNeXt-T": {"name": "timm:convnext_tiny"},
}


@workload("checkpoint_budget")
def checkpoint_budget(settings: Settings) -> Iterator[Row]:
    """ResNet-50, ViT-S and ConvNeXt-T in 80 % of their activation memory: predicted, allowed and measured peak."""
    try:
        simulate = import_module("graphmodel.passes.training_step").simulate_step
    except ImportError:
        raise SkipWorkload("the checkpoint planner does not exist in this version") from None
    batch = 2 if settings.quick else settings.samples(4, 32)
    for name, trunk in list(TRUNKS.items())[: 1 if settings.quick else None]:
        with settings.attempt("checkpoint_budget", name):
            yield from rows_of(name, trunk, batch, settings, simulate)


def rows_of(name: str, trunk: Any, batch: int, settings: Settings, simulate: Any) -> Iterator[Row]:
    """Rows of one trunk."""
    spec = {"inputs": {"images": {"shape": [3, 224, 224]}}, "trunk": trunk, "heads": {"label": linear(1000)}}
    plain = graphmodel.compile(spec, seed=0)
    predicted = simulate(plain.model_graph, batch, recomputed=())
    note = f"{name}, batch {batch}, 224 px, weights and gradients included"
    found = predicted.weights + measured(plain, batch, settings)
    yield Row(
        "checkpoint_budget", f"{name}: measured / predicted without checkpointing", found / predicted.total,
        unit="of it", target=Target("<=", 1.05), device=harness.device_name(settings.device), note=note,
    )  # fmt: skip
    budget = (predicted.weights + int(predicted.peak * 0.8)) // 2**20 * 2**20
    model = graphmodel.compile(
        {**spec, "checkpoint": {"memory_budget": f"{budget // 2**20}MiB", "batch": batch}}, seed=0
    )
    planned = simulate(model.model_graph, batch)
    found = predicted.weights + measured(model, batch, settings)
    yield Row(
        "checkpoint_budget", f"{name}: measured / predicted with the plan", found / planned.total, unit="of it",
        target=Target("<=", 1.05), device=harness.device_name(settings.device), note=note,
    )  # fmt: skip
    yield Row(
        "checkpoint_budget", f"{name}: measured / budget", found / budget, unit="of it",
        target=Target("<=", 1.05), device=harness.device_name(settings.device),
        note=f"{note}; budget {budget / 1e6:.0f} MB, {predicted.total / 1e6:.0f} MB without checkpointing",
    )  # fmt: skip
    x = torch.randn(batch, 3, 224, 224, device=settings.device)
    steps = {"checkpointed": harness.backward_step(model, [x]), "plain": harness.backward_step(plain, [x])}
    times = harness.interleave(steps, min(settings.pairs, 5), settings.device)
    yield harness.ratio_row(
        "checkpoint_budget", f"{name}: forward+backward", times, "plain", "checkpointed", settings,
        baseline="without checkpointing", note=note,
    )  # fmt: skip


def measured(model: Any, batch: int, settings: Settings) -> int:
    """The peak of a training step above the weights, the images included."""
    model.to(settings.device)

    def step() -> None:
        harness.total(model(torch.randn(batch, 3, 224, 224, device=settings.device))).backward()
        model.zero_grad(set_to_none=True)

    return harness.peak_bytes(step, settings.device)
