"""torch.compile: cold compile time of repeated stages, graphs over batch sizes, steady state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import graphmodel
from benchmarks import baselines, harness
from benchmarks.harness import Row, Settings, Target
from benchmarks.workloads.registry import NEVER_SLOWER, VARIANTS, linear, moved, workload
from benchmarks.workloads.self_supervised import crops, swav_spec

BATCHES = (2, 3, 4, 8, 5)


@workload("regional_compile")
def regional_compile(settings: Settings) -> Iterator[Row]:
    """Cold compile of a 12-block ViT, whole and by regions, then the steady state of both."""
    depth, size = (2, 64) if settings.quick else (12, 224)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": size, "depth": depth},
        "heads": {"label": linear(10)},
    }
    batch = settings.samples(4, 256)  # with few samples a GPU waits for the CPU, which checks guards
    x = torch.randn(batch, 3, size, size)
    eager = graphmodel.compile(spec, seed=0).eval().to(settings.device)
    x = x.to(settings.device)
    with torch.no_grad():
        expected = eager(x)
    note = f"ViT-Ti/16, {depth} blocks, {size} px, batch {batch}, eval mode, inductor without caches, C++ compiler included"
    seconds, sides = {}, {}
    for label, regional in (("whole graph", False), ("ours", True)):
        with harness.cold():
            made = graphmodel.compile(spec, seed=0).eval().to(settings.device)
            sides[label] = graphmodel.torch_compile(made, regional=regional)
            step = harness.forward_step(sides[label], [x])
            seconds[label] = harness.cold_seconds(step, settings.device)
            tolerance = 1e-4 if settings.device == "cpu" else 1e-2  # TF32
            harness.check_equal("regional_compile", step(), expected, tolerance)
    yield Row(
        "regional_compile", "cold compile", seconds["whole graph"] / seconds["ours"], baseline="whole graph",
        times=seconds, target=Target(">=", 3.0), device=harness.device_name(settings.device), note=note,
    )  # fmt: skip
    steps = {label: harness.forward_step(side, [x]) for label, side in {**sides, "eager": eager}.items()}
    times = harness.interleave(steps, max(settings.pairs, 15), settings.device, 3)
    for label in ("whole graph", "eager"):
        yield harness.ratio_row(
            "regional_compile", "forward, steady state", times, label, "ours", settings, baseline=label, note=note,
            target=Target(">=", 0.98) if label == "whole graph" else None,
        )  # fmt: skip


@workload("graphs")
def graphs(settings: Settings) -> Iterator[Row]:
    """How many graphs five batch sizes make in each mode, with `fullgraph=True`: any graph break would be an error."""
    resnet = {"name": "resnet", "depth": 18}
    pirl = {
        "inputs": {"images": {"shape": [3, 64, 64]}, "patches": {"shape": [3, 32, 32]}},
        "trunk": resnet,
        "heads": {
            "image": linear(128),
            "jigsaw": [linear(128), {"siamese_concat_view": {"num_towers": 9}}, linear(128)],
        },
        "mapping": {"images": {"flatten": "image"}, "patches": {"flatten": "jigsaw"}},
    }
    cases: dict[str, tuple[dict[str, Any], Callable[[int], list[Any]]]] = {
        "PIRL": (pirl, lambda b: [torch.randn(b, 3, 64, 64), torch.randn(9 * b, 3, 32, 32)]),
        "SwAV": (swav_spec(resnet, 64, 32, 64, 30), lambda b: [crops(b, 64, 32)]),
    }
    note = f"batch sizes {', '.join(map(str, BATCHES))}; ResNet-18, `fullgraph=True`"
    for name, (spec, arguments) in cases.items():
        for mode in (True, False):
            where = f"{name}, {'training' if mode else 'eval'} mode"
            for label, target in (("plain torch.compile", None), ("torch_compile", Target("<=", 1))):
                # New tensors and a new model for each: both keep marks.
                model = graphmodel.compile(spec, seed=0).train(mode).to(settings.device)
                compiler = {"plain torch.compile": plain, "torch_compile": whole}[label]
                calls = [moved(arguments(b), settings.device) for b in BATCHES]
                with settings.attempt("graphs", f"{where}: {label}"):
                    found = harness.graphs_over(partial(compiler, model), calls)
                    device = harness.device_name(settings.device)
                    yield Row(
                        "graphs", f"{where}: {label}", found, unit="graphs", note=note, target=target, device=device
                    )


@workload("compiled_vit_small")
def compiled_vit(settings: Settings) -> Iterator[Row]:
    """Supervised training of a ViT-S/16 under `torch.compile`, beside a hand-written module under `torch.compile`."""
    options = {"img_size": 32, "depth": 2, "embed_dim": 96} if settings.quick else {}
    name, size = "vit_small_patch16_224", 32 if settings.quick else 224
    hand = baselines.HandHeads(baselines.TimmPooled(name, **options), [1000])
    yield from compiled("compiled_vit_small", settings, {"name": f"timm:{name}", **options}, hand, size, name)


@workload("compiled_resnet50")
def compiled_resnet(settings: Settings) -> Iterator[Row]:
    """The same with a ResNet-50."""
    depth, size = (18, 32) if settings.quick else (50, 224)
    hand = baselines.HandHeads(baselines.Stages(f"resnet{depth}"), [1000])
    trunk = {"name": "resnet", "depth": depth}
    yield from compiled("compiled_resnet50", settings, trunk, hand, size, f"ResNet-{depth}")


def compiled(
    name: str, settings: Settings, trunk: Any, hand: torch.nn.Module, size: int, described: str
) -> Iterator[Row]:
    """Forward and backward of both sides compiled, under bf16 autocast on CUDA; the first calls, too."""
    spec = {"inputs": {"images": {"shape": [3, size, size]}}, "trunk": trunk, "heads": {"label": linear(1000)}}
    batch = settings.samples(4, 64)
    ours, hand = graphmodel.compile(spec, seed=0).to(settings.device), hand.to(settings.device)
    harness.copy_weights(ours, hand)
    x = torch.randn(batch, 3, size, size, device=settings.device)
    context = VARIANTS[2] if settings.device == "cuda" else VARIANTS[0]
    note = ", ".join(filter(None, [f"{described}, batch {batch}, {size} px", context.name]))
    steps, seconds = {}, {}
    for label, side in {"hand-written": hand, "ours": ours}.items():
        torch._dynamo.reset()
        steps[label] = context.within(harness.backward_step(torch.compile(side, fullgraph=True), [x]))
        with harness.uncached():
            seconds[label] = harness.cold_seconds(steps[label], settings.device)
    yield Row(
        name, "cold compile", seconds["hand-written"] / seconds["ours"], baseline="hand-written", times=seconds,
        device=harness.device_name(settings.device), note=note,
    )  # fmt: skip
    times = harness.interleave(steps, settings.pairs, settings.device)
    yield harness.ratio_row(
        name, "forward+backward, torch.compile", times, "hand-written", "ours", settings, baseline="hand-written",
        note=note, target=NEVER_SLOWER,
    )  # fmt: skip


def plain(model: Any, backend: Any) -> Any:
    """torch's own way."""
    return torch.compile(model, backend=backend, fullgraph=True)


def whole(model: Any, backend: Any) -> Any:
    """The whole graph by `torch_compile`."""
    return graphmodel.torch_compile(model, regional=False, backend=backend)
