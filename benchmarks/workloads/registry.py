"""The table of workloads and the comparison that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    with harness.rng(), harness.full_precision(), torch.no_grad():
        expected = {label: baseline(*arguments) for label, baseline in baselines.items()}
        found = ours(*arguments)
    for value in expected.values():
        harness.check_equal(name, found, value, tolerance)
    del expected, found, value
    sides = {"ours": ours, **baselines}
    for variant in VARIANTS if settings.device == "cuda" else VARIANTS[:1]:
        given = variant.convert(arguments)
        said = ", ".join(filter(None, [note, variant.name]))
        for side in sides.values():
            side.to(memory_format=variant.memory_format)
        for metric in metrics:
            with settings.attempt(name, f"{metric}, {said}"):
                steps = {label: variant.within(STEPS[metric](side, given)) for label, side in sides.items()}
                pairs = settings.pairs * (4 if repeat > 1 else 1)  # short steps are noisy
                times = harness.interleave(steps, pairs, settings.device, repeat)
                for label in baselines:
                    row = harness.ratio_row(name, metric, times, label, "ours", settings, baseline=label, note=said)
                    yield replace(row, target=bounds.get(label))
        with settings.attempt(name, f"peak memory, {said}"):
            if memory:
                backward = "forward+backward" in metrics
                kind = STEPS["forward+backward" if backward else "forward"]
                steps = {label: variant.within(kind(side, given)) for label, side in sides.items()}
                peaks = {label: harness.peak_bytes(step, settings.device) for label, step in steps.items()}
                for label in baselines:
                    figure = peaks[label] / max(peaks["ours"], 1)
                    shown = f"{said}; ours {peaks['ours'] / 1e6:.1f} MB"
                    device = harness.device_name(settings.device)
                    yield Row(name, "peak memory", figure, baseline=label, device=device, note=shown)
    for side in sides.values():
        side.to(memory_format=torch.contiguous_format)
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
        with settings.attempt(name, f"{metric}, torch.compile, {note}"):
            steps = {label: STEPS[metric](side, arguments) for label, side in sides.items()}
            times = harness.interleave(steps, settings.pairs, settings.device, repeat)
            yield harness.ratio_row(
                name, f"{metric}, torch.compile", times, "hand-written", "ours", settings,
                baseline="hand-written", note=note, target=NEVER_SLOWER,
            )  # fmt: skip
    torch._dynamo.reset()


@dataclass(frozen=True)
class Variant:
    """How a step runs.

    Attributes:
        name: what the report calls it; empty for the plain one.
        memory_format: of weights and inputs of four dimensions.
        autocast: whether it runs under bf16 autocast.
    """

    name: str
    memory_format: torch.memory_format = torch.contiguous_format
    autocast: bool = False

    def convert(self, value: Any) -> Any:
        """The arguments in the memory format."""
        if isinstance(value, list):
            return [self.convert(item) for item in value]
        return value.contiguous(memory_format=self.memory_format) if value.ndim == 4 else value

    def within(self, step: harness.Step) -> harness.Step:
        """The step under autocast, if that is asked for."""
        if not self.autocast:
            return step

        def run() -> Any:
            with torch.autocast("cuda", torch.bfloat16):
                return step()

        return run


VARIANTS = (
    Variant(""),
    Variant("channels_last", torch.channels_last),
    Variant("bf16 autocast", autocast=True),
    Variant("bf16 autocast, channels_last", torch.channels_last, autocast=True),
)
"""The first on CPU, all on CUDA; both sides run in the same way."""


def moved(value: Any, device: str) -> Any:
    """The arguments on a device."""
    return [moved(item, device) for item in value] if isinstance(value, list) else value.to(device)


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
    name: str,
    settings: Settings,
    ours: Any,
    plain: Any,
    arguments: list[Any],
    note: str,
    target: Target | None,
    tolerance: float = 1e-4,
) -> Iterator[Row]:
    """The forward pass of two modules with the same weights, one made from the other."""
    arguments = moved(arguments, settings.device)
    ours, plain = ours.to(settings.device), plain.to(settings.device)
    with harness.full_precision(), torch.no_grad():
        harness.check_equal(name, ours(*arguments), plain(*arguments), tolerance)
    steps = {"ours": harness.forward_step(ours, arguments), "plain": harness.forward_step(plain, arguments)}
    times = harness.interleave(steps, settings.pairs, settings.device)
    yield harness.ratio_row(
        name, "forward", times, "plain", "ours", settings, baseline="without optimization", note=note, target=target
    )
