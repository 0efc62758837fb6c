"""Linear evaluation and feature extraction with a frozen ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import graphmodel
from benchmarks import baselines, harness
from benchmarks.harness import Row, Settings
from benchmarks.workloads.registry import compare, workload

LAYERS = ("conv1", "res2", "res3", "res4", "res5")


def probes_spec(depth: int, size: int, classes: int) -> dict[str, Any]:
    """Five probes on five layers of a frozen ResNet."""
    return {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": depth, "freeze": True},
        "heads": {f"probe_{n}": {"eval_mlp": {"dims": ["auto", classes]}} for n in LAYERS},
        "mapping": {"images": {n: {"pool": {"adaptive_avg_pool2d": 2}, "head": f"probe_{n}"} for n in LAYERS}},
    }


@workload("linear_evaluation")
def linear_evaluation(settings: Settings) -> Iterator[Row]:
    """Five probes on five layers of a frozen ResNet-50, beside a hand-written module and VISSL's loop."""
    depth, size = (18, 64) if settings.quick else (50, 224)
    batch = settings.samples(4, 64)
    channels = (64, 64, 128, 256, 512) if depth == 18 else (64, 256, 512, 1024, 2048)
    hand = baselines.HandLinear(baselines.Stages(f"resnet{depth}"), channels, 1000)
    names = ["relu", "res2", "res3", "res4", "res5"]
    loop = baselines.VisslEvaluation(f"resnet{depth}", names, channels, 1000)
    yield from compare(
        "linear_evaluation", settings, graphmodel.compile(probes_spec(depth, size, 1000), seed=0),
        {"hand-written": hand, "VISSL-like loop": loop}, [torch.randn(batch, 3, size, size)],
        note=f"frozen ResNet-{depth}, five layers, batch {batch}, {size} px",
    )  # fmt: skip


@workload("extraction")
def extraction(settings: Settings) -> Iterator[Row]:
    """Four layers of a ResNet, beside torchvision's `create_feature_extractor` and timm's `features_only`."""
    depth, size = (18, 64) if settings.quick else (50, 224)
    batch = settings.samples(4, 64)
    images = torch.randn(batch, 3, size, size)
    layers = ("res2", "res3", "res4", "res5")
    nodes = ["layer1", "layer2", "layer3", "layer4"]
    cases = {
        "torchvision create_feature_extractor": (
            {"name": f"torchvision:resnet{depth}"},
            nodes,
            lambda: baselines.torchvision_extractor(f"resnet{depth}", nodes),
        ),
        "timm features_only": (
            {"name": f"timm:resnet{depth}"},
            nodes,
            lambda: baselines.timm_features(f"resnet{depth}", (1, 2, 3, 4)),
        ),
    }
    assert len(layers) == len(nodes)
    for label, (trunk, features, make) in cases.items():
        spec = {
            "inputs": {"images": {"shape": [3, size, size]}},
            "trunk": trunk,
            "mapping": [{"from": f"images.{name}", "as": f"out{i}"} for i, name in enumerate(features)],
        }
        ours = graphmodel.compile(spec, seed=0).eval()
        yield from compare(
            "extraction", settings, ours, {label: make().eval()}, [images], metrics=("forward",),
            targets={label: harness.Target(">=", 0.98)}, note=f"ResNet-{depth}, four layers, batch {batch}, {size} px, eval mode",
            compiled=False,
        )  # fmt: skip
