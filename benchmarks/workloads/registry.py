"""The table of workloads and the comparison that most of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks import harness
from benchmarks.harness import Row, Settings, Target

Workload = Callable[[Settings], Iterator[Row]]

WORKLOADS: dict[str, Workload] = {}
"""By name, in the order of the report."""

NEVER_SLOWER = Target(">=", 0.98)
"""At most 2 % slower than the baseline."""


def workload(name: str) -> Callable[[Workload], Workload]:
    """Registers a generator of rows; its docstring says what is run."""

    def register(function: Workload) -> Workload:
        assert name not in WORKLOADS, name
        WORKLOADS[name] = function
        return function

    return register


def linear(*dims: Any) -> dict[str, Any]:
    """An `mlp` head."""
    return {"mlp": {"dims": ["auto", *dims]}}


STEPS = {
    "forward": harness.forward_step,
    "forward+backward": harness.backward_step,
    "training step": harness.training_step,
}


def compare(
    name: str,
    settings: Settings,
    ours: nn.Module,
    baselines: Mapping[str, nn.Module],
    arguments: list[Any],
    *,
    metrics: tuple[str, ...] = ("forward", "forward+backward", "training step"),
    targets: Mapping[str, Target | None] | None = None,
    repeat: int = 1,
    note: str = "",
    tolerance: float = 1e-5,
    memory: bool = True,
    compiled: bool = True,
) -> Iterator[Row]:
    """Rows of one model against its baselines, which hold the same weights.

    A ratio is the baseline's time divided by ours: above 1, ours is faster.

    Args:
        name: the workload.
        settings: how the suite runs.
        ours: the compiled model.
        baselines: by label; each gets our weights.
        arguments: what all are called with.
        metrics: keys of `STEPS`.
        targets: by label of the baseline, for every metric; `hand-written` is never faster by more than 2 % if absent.
        repeat: see `harness.interleave`.
        note: sizes and conditions.
        tolerance: of the relative difference of both sides' outputs.
        memory: whether peak memory is measured.
        compiled: whether `--compiled` measures this one under `torch.compile` too.
    """
    bounds = {"hand-written": NEVER_SLOWER, **(targets or {})}
    arguments = moved(arguments, settings.device)
    ours.to(settings.device)
    for baseline in baselines.values():
        baseline.to(settings.device)
        harness.copy_weights(ours, baseline)
        baseline.train(ours.training)
    with harness.rng(), torch.no_grad():
        expected = {label: baseline(*arguments) for label, baseline in baselines.items()}
        found = ours(*arguments)
    for value in expected.values():
        harness.check_equal(name, found, value, tolerance)
    for variant, context, convert in variants(settings):
        sides = {"ours": ours, **baselines}
        given = convert(arguments)
        said = ", ".join(filter(None, [note, variant]))
        for metric in metrics:
            steps = {label: within(context, STEPS[metric](side, given)) for label, side in sides.items()}
            pairs = settings.pairs * (4 if repeat > 1 else 1)  # short steps are noisy
            times = harness.interleave(steps, pairs, settings.device, repeat)
            for label in baselines:
                row = harness.ratio_row(name, metric, times, label, "ours", settings, baseline=label, note=said)
                yield replace(row, target=bounds.get(label) if not variant else None)
        if memory:
            backward = "forward+backward" in metrics
            kind = STEPS["forward+backward" if backward else "forward"]
            peaks = {k: harness.peak_bytes(within(context, kind(v, given)), settings.device) for k, v in sides.items()}
            for label in baselines:
                figure = peaks[label] / max(peaks["ours"], 1)
                shown = f"{said}; ours {peaks['ours'] / 1e6:.1f} MB"
                yield Row(
                    name, "peak memory", figure, baseline=label, device=harness.device_name(settings.device), note=shown
                )
    counted = harness.parameters(ours)
    for label, baseline in baselines.items():
        yield Row(
            name, "parameters", harness.parameters(baseline) / max(counted, 1), baseline=label, note=f"ours {counted:,}"
        )
    if settings.compiled and compiled:
        yield from _compiled(name, settings, ours, baselines, arguments, metrics, repeat, note)


def _compiled(
    name: str,
    settings: Settings,
    ours: nn.Module,
    baselines: Mapping[str, nn.Module],
    arguments: list[Any],
    metrics: tuple[str, ...],
    repeat: int,
    note: str,
) -> Iterator[Row]:
    """The hand-written module and ours, both under `torch.compile`."""
    if "hand-written" not in baselines:
        return
    torch._dynamo.reset()
    sides = {"ours": torch.compile(ours, fullgraph=True), "hand-written": torch.compile(baselines["hand-written"])}
    for metric in metrics[:2]:
        steps = {label: STEPS[metric](side, arguments) for label, side in sides.items()}
        times = harness.interleave(steps, settings.pairs, settings.device, repeat)
        yield harness.ratio_row(
            name, f"{metric}, torch.compile", times, "hand-written", "ours", settings,
            baseline="hand-written", note=note, target=NEVER_SLOWER,
        )  # fmt: skip
    torch._dynamo.reset()


def variants(
    settings: Settings,
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Any]], Callable[[list[Any]], list[Any]]]]:
    """Plain, and on CUDA also `channels_last` inputs and bf16 autocast."""
    yield "", contextlib.nullcontext, lambda arguments: arguments
    if settings.device == "cuda":
        yield "channels_last", contextlib.nullcontext, lambda arguments: [_channels_last(a) for a in arguments]
        yield "bf16 autocast", lambda: torch.autocast("cuda", torch.bfloat16), lambda arguments: arguments


def within(context: Callable[[], AbstractContextManager[Any]], step: harness.Step) -> harness.Step:
    """The step inside a context."""
    if context is contextlib.nullcontext:
        return step

    def run() -> Any:
        with context():
            return step()

    return run


def moved(value: Any, device: str) -> Any:
    """The arguments on a device."""
    return [moved(item, device) for item in value] if isinstance(value, list) else value.to(device)


def _channels_last(value: Any) -> Any:
    if isinstance(value, list):
        return [_channels_last(item) for item in value]
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def spec_to_module(name: str, spec: Mapping[str, Any], settings: Settings) -> Iterator[Row]:
    """CPU time from a spec to a module on meta, and with weights."""
    import time

    import graphmodel

    for what, keywords in (("spec to graph on meta", {"device": "meta"}), ("spec to module with weights", {"seed": 0})):
        start = time.process_time()
        graphmodel.compile(spec, **keywords)
        yield Row(
            name, what, time.process_time() - start, unit="s CPU", device=harness.device_name("cpu"), note="one call"
        )


def forward_pair(
    name: str, settings: Settings, ours: Any, plain: Any, arguments: list[Any], note: str, target: Target | None
) -> Iterator[Row]:
    """The forward pass of two modules with the same weights, one made from the other."""
    arguments = moved(arguments, settings.device)
    with torch.no_grad():
        harness.check_equal(name, ours(*arguments), plain(*arguments), 1e-4)
    steps = {"ours": harness.forward_step(ours, arguments), "plain": harness.forward_step(plain, arguments)}
    times = harness.interleave(steps, settings.pairs, settings.device)
    yield harness.ratio_row(
        name, "forward", times, "plain", "ours", settings, baseline="without optimization", note=note, target=target
    )
