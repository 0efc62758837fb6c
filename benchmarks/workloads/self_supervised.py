"""Self-supervised training: SwAV on a ResNet and a ViT, PIRL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import graphmodel
from benchmarks import baselines
from benchmarks.harness import Row, Settings
from benchmarks.workloads.registry import compare, linear, spec_to_module, workload


def swav_spec(trunk: Any, large: int, small: int, hidden: int, prototypes: int) -> dict[str, Any]:
    """Two large and six small crops."""
    views = [{"count": 2, "shape": [3, large, large]}, {"count": 6, "shape": [3, small, small]}]
    head = {"swav_head": {"dims": ["auto", hidden, 128], "use_bn": True, "num_clusters": [prototypes]}}
    return {"inputs": {"crops": {"views": views}}, "trunk": trunk, "heads": {"swav": head}}


def crops(batch: int, large: int, small: int) -> list[torch.Tensor]:
    return [torch.randn(batch, 3, s, s) for s in [large] * 2 + [small] * 6]


@workload("swav_resnet50")
def swav_resnet(settings: Settings) -> Iterator[Row]:
    """SwAV's multi-crop (2x224 + 6x96) on a ResNet-50."""
    depth, large, small = (18, 64, 32) if settings.quick else (50, 224, 96)
    batch = settings.samples(2, 32)
    spec = swav_spec({"name": "resnet", "depth": depth}, large, small, 2048, 3000)
    hand = baselines.HandSwav(baselines.Stages(f"resnet{depth}"), 2048, 3000)
    yield from compare(
        "swav_resnet50", settings, graphmodel.compile(spec, seed=0), {"hand-written": hand},
        [crops(batch, large, small)], note=f"ResNet-{depth}, batch {batch}, 2x{large} + 6x{small}", compiled=False,
    )  # fmt: skip
    yield from spec_to_module("swav_resnet50", spec, settings)


@workload("swav_vit_small")
def swav_vit(settings: Settings) -> Iterator[Row]:
    """The same crops on a ViT-S/16 whose position embeddings follow the size."""
    name, large, small = ("vit_tiny_patch16_224", 64, 32) if settings.quick else ("vit_small_patch16_224", 224, 96)
    batch = settings.samples(2, 32)
    options = {"dynamic_img_size": True, **({"img_size": 64, "depth": 2} if settings.quick else {})}
    spec = swav_spec({"name": f"timm:{name}", **options}, large, small, 2048, 3000)
    hand = baselines.HandSwav(baselines.TimmPooled(name, **options), 2048, 3000)
    yield from compare(
        "swav_vit_small", settings, graphmodel.compile(spec, seed=0), {"hand-written": hand},
        [crops(batch, large, small)], note=f"{name}, batch {batch}, 2x{large} + 6x{small}", compiled=False,
    )  # fmt: skip
    yield from spec_to_module("swav_vit_small", spec, settings)


@workload("pirl")
def pirl(settings: Settings) -> Iterator[Row]:
    """PIRL: an image and nine patches through one trunk, two heads."""
    depth, size, patch = (18, 64, 32) if settings.quick else (50, 224, 64)
    batch = settings.samples(2, 32)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}, "patches": {"shape": [3, patch, patch]}},
        "trunk": {"name": "resnet", "depth": depth},
        "heads": {
            "image": linear(128),
            "jigsaw": [linear(128), {"siamese_concat_view": {"num_towers": 9}}, linear(128)],
        },
        "mapping": {"images": {"flatten": "image"}, "patches": {"flatten": "jigsaw"}},
    }
    hand = baselines.HandPirl(baselines.Stages(f"resnet{depth}"))
    width = hand.trunk.width
    chain = nn.Sequential(nn.Linear(width, 128), baselines.Rows(9), nn.Linear(9 * 128, 128))
    entries = [("images", "flatten"), ("patches", "flatten")]
    loop = baselines.VisslLoop(f"resnet{depth}", entries, [nn.Linear(width, 128), chain])
    yield from compare(
        "pirl", settings, graphmodel.compile(spec, seed=0), {"hand-written": hand, "VISSL-like loop": loop},
        [torch.randn(batch, 3, size, size), torch.randn(9 * batch, 3, patch, patch)],
        note=f"ResNet-{depth}, batch {batch}, {size} + 9x{patch}", compiled=False,
    )  # fmt: skip


@workload("supervised_resnet50")
def supervised(settings: Settings) -> Iterator[Row]:
    """Supervised training of a ResNet-50."""
    depth, size = (18, 64) if settings.quick else (50, 224)
    batch = settings.samples(4, 64)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": depth},
        "heads": {"label": linear(1000)},
    }
    hand = baselines.HandHeads(baselines.Stages(f"resnet{depth}"), [1000])
    yield from compare(
        "supervised_resnet50", settings, graphmodel.compile(spec, seed=0), {"hand-written": hand},
        [torch.randn(batch, 3, size, size)], note=f"ResNet-{depth}, batch {batch}, {size} px", compiled=False,
    )  # fmt: skip


@workload("three_entries")
def three_entries(settings: Settings) -> Iterator[Row]:
    """One input in three mapping entries: VISSL runs the trunk three times, a compiled model once."""
    from benchmarks.harness import Target

    depth, size = (18, 32) if settings.quick else (50, 128)
    batch = settings.samples(4, 64)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": depth},
        "heads": {"a": linear(128), "b": linear(128), "c": linear(128)},
        "mapping": [{"from": "images.flatten", "head": head} for head in "abc"],
    }
    hand = baselines.HandHeads(baselines.Stages(f"resnet{depth}"), [128] * 3)
    heads: list[nn.Module] = [nn.Linear(hand.trunk.width, 128) for _ in range(3)]
    loop = baselines.VisslLoop(f"resnet{depth}", [("images", "flatten")] * 3, heads)
    # The loop's BatchNorm statistics move three times a step: compare in eval mode, where both give the same numbers.
    yield from compare(
        "three_entries", settings, graphmodel.compile(spec, seed=0).eval(),
        {"hand-written": hand, "VISSL-like loop": loop}, [torch.randn(batch, 3, size, size)],
        targets={"VISSL-like loop": Target(">=", 2.0)}, note=f"ResNet-{depth}, batch {batch}, {size} px, eval mode",
        compiled=settings.quick or depth == 18,
    )  # fmt: skip
