"""torch.compile: cold compile time of repeated stages, graphs over batch sizes, steady state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import graphmodel
from benchmarks import harness
from benchmarks.harness import Row, Settings, Target
from benchmarks.workloads.registry import linear, workload
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
    x = torch.randn(4, 3, size, size)
    eager = graphmodel.compile(spec, seed=0).eval().to(settings.device)
    x = x.to(settings.device)
    with torch.no_grad():
        expected = eager(x)
    note = f"ViT-Ti/16, {depth} blocks, {size} px, batch 4, eval mode, inductor without caches, C++ compiler included"
    seconds, sides = {}, {}
    for label, regional in (("whole graph", False), ("ours", True)):
        with harness.cold():
            made = graphmodel.compile(spec, seed=0).eval().to(settings.device)
            sides[label] = graphmodel.torch_compile(made, regional=regional)
            step = harness.forward_step(sides[label], [x])
            seconds[label] = harness.cold_seconds(step)
            harness.check_equal("regional_compile", step(), expected, 1e-4)
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
    note = f"batch sizes {', '.join(map(str, BATCHES))}; ResNet-18, `fullgraph=True`, 1 CPU thread"
    for name, (spec, arguments) in cases.items():
        for mode in (True, False):
            where = f"{name}, {'training' if mode else 'eval'} mode"
            for label, target in (("plain torch.compile", None), ("torch_compile", Target("<=", 1))):
                # New tensors and a new model for each: both keep marks.
                model = graphmodel.compile(spec, seed=0).train(mode)
                compiler = {"plain torch.compile": plain, "torch_compile": whole}[label]
                found = harness.graphs_over(partial(compiler, model), [arguments(b) for b in BATCHES])
                yield Row("graphs", f"{where}: {label}", found, unit="graphs", note=note, target=target)


def plain(model: Any, backend: Any) -> Any:
    """torch's own way."""
    return torch.compile(model, backend=backend, fullgraph=True)


def whole(model: Any, backend: Any) -> Any:
    """The whole graph by `torch_compile`."""
    return graphmodel.torch_compile(model, regional=False, backend=backend)
