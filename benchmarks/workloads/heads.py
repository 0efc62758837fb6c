"""Many heads on one feature: DINOv2's 52 classifiers and 100 small heads, with their losses and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from benchmarks import baselines, harness
from benchmarks.harness import Row, Settings, Target
from benchmarks.workloads.registry import linear, workload

RATES = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]


def loop_step(
    model: Callable[..., Any], groups: list[dict[str, Any]], images: Any, labels: Any, *, kernel: bool = False
) -> harness.Step:
    """A loss for each head, summed, as in DINOv2's evaluation; `kernel` for the optimizer's fused kernel."""
    optimizer = torch.optim.SGD(groups, momentum=0.9, foreach=len(groups) == 1 and not kernel, fused=kernel)

    def run() -> float:
        outputs = model(images)
        outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
        loss = sum((F.cross_entropy(y, labels) for y in outputs), torch.zeros((), device=images.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def fused_step(
    model: Callable[..., Any], groups: list[dict[str, Any]], images: Any, labels: Any, *, kernel: bool = False
) -> harness.Step:
    """The same with `graphmodel.fused_cross_entropy`; `kernel` for the optimizer's fused kernel."""
    fused = harness.api("fused_cross_entropy")
    optimizer = torch.optim.SGD(groups, momentum=0.9, foreach=len(groups) == 1 and not kernel, fused=kernel)

    def run() -> float:
        loss = fused(model(images), labels, total=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def one_group(heads: list[nn.Module]) -> list[dict[str, Any]]:
    """All heads in one parameter group."""
    return [{"params": [p for head in heads for p in head.parameters()], "lr": 1e-5}]


def groups_of(heads: list[nn.Module]) -> list[dict[str, Any]]:
    """One parameter group for each head, each with its own learning rate."""
    return [{"params": list(h.parameters()), "lr": RATES[i % len(RATES)] * 1e-3} for i, h in enumerate(heads)]


@graphmodel.register_trunk("benchmark_features")
class Features(nn.Module):
    """A trunk that hands features through: only the heads are timed."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same(x)


class HeadLoop(nn.Module):
    """A ModuleDict of heads over one feature."""

    def __init__(self, width: int, classes: int, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f"head{i}": nn.Linear(width, classes) for i in range(count)})

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [head(x) for head in self.heads.values()]


def many_heads(name: str, settings: Settings, count: int, classes: int, width: int, target: Target) -> Iterator[Row]:
    """Rows of `count` heads on one feature."""
    harness.has_pass("fuse_heads")
    spec = {
        "inputs": {"features": {"shape": [width]}},
        "trunk": "benchmark_features",
        "heads": {f"head{i}": linear(classes) for i in range(count)},
        "mapping": [{"from": "features", "head": f"head{i}"} for i in range(count)],
    }
    for batch in (32,) if settings.quick else (32, 256):
        ours, loop = graphmodel.compile(spec, seed=0, passes={"fuse_heads": True}), HeadLoop(width, classes, count)
        ours, loop = ours.to(settings.device), loop.to(settings.device)
        harness.copy_weights(ours, loop)
        x = torch.randn(batch, width, device=settings.device)
        labels = torch.randint(classes, (batch,), device=settings.device)
        with harness.full_precision():
            harness.check_equal(name, ours(x), loop(x))
        steps = {
            "ours": fused_step(ours, one_group(list(ours.heads.children())), x, labels),
            "ours, a loss per head": loop_step(ours, one_group(list(ours.heads.children())), x, labels),
            "ours, SGD(fused=True)": fused_step(ours, one_group(list(ours.heads.children())), x, labels, kernel=True),
            "ModuleDict loop": loop_step(loop, one_group(list(loop.heads.children())), x, labels),
            "ModuleDict loop, SGD(fused=True)": loop_step(
                loop, one_group(list(loop.heads.children())), x, labels, kernel=True
            ),
        }
        times = harness.interleave(steps, settings.pairs, settings.device, 1 if classes > 100 else 3)
        note = (
            f"{count} heads of {classes} classes, width {width}, batch {batch}; SGD with momentum, one parameter group"
        )
        for side in ("ours", "ours, a loss per head", "ours, SGD(fused=True)"):
            over = "ModuleDict loop" + ", SGD(fused=True)" * side.endswith("(fused=True)")
            yield harness.ratio_row(
                name, "training step with losses" + side.removeprefix("ours"), times, over, side, settings,
                baseline="ModuleDict loop", note=note, target=target if side == "ours" else None,
            )  # fmt: skip


@workload("hundred_heads")
def hundred_heads(settings: Settings) -> Iterator[Row]:
    """100 heads of 10 classes on one feature, including losses and the optimizer's step."""
    yield from many_heads("hundred_heads", settings, 100, 10, 64 if settings.quick else 384, Target(">=", 3.0))


@workload("dinov2_heads")
def dinov2_heads(settings: Settings) -> Iterator[Row]:
    """DINOv2's linear evaluation: 52 heads of 1000 classes on the last 1 or 4 blocks, with or without the mean patch."""
    harness.has_pass("fuse_heads")
    rates, classes = (2, 10) if settings.quick else (13, 1000)
    options = {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3} if settings.quick else {}
    size = 32 if settings.quick else 224
    name = "vit_small_patch16_224"

    def tokens(block: int, which: str) -> dict[str, Any]:
        return {"from": f"images.blocks.{block}", "tokens": which, "norm": True}

    import timm

    trunk = timm.create_model(name, num_classes=0, **options)
    depth = len(trunk.blocks)
    entries, heads = [], {}
    for n in (1, 4):
        for average in (False, True):
            sources = [tokens(depth - n + i, "class") for i in range(n)]
            sources += [tokens(depth - 1, "mean")] if average else []
            for rate in range(rates):
                head = f"last{n}_{'mean' if average else 'class'}_{rate}"
                heads[head] = linear(classes)
                entries.append({"from": sources, "combine": "concat", "head": head})
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": f"timm:{name}", "freeze": True, **options},
        "heads": heads,
        "mapping": entries,
    }
    ours = graphmodel.compile(spec, seed=0, passes={"fuse_heads": True})
    loop = baselines.DinoHeads(trunk, trunk.num_features, classes, rates)
    loop.train()
    ours, loop = ours.to(settings.device), loop.to(settings.device)
    harness.copy_weights(ours, loop)
    batch = settings.samples(8, 128)
    x = torch.randn(batch, 3, size, size, device=settings.device)
    labels = torch.randint(classes, (batch,), device=settings.device)
    with harness.full_precision():
        harness.check_equal("dinov2_heads", ours(x), loop(x))
    mine, theirs = groups_of(list(ours.heads.children())), groups_of(list(loop.classifiers.children()))
    steps = {
        "ours": fused_step(ours, mine, x, labels),
        "ours, a loss per head": loop_step(ours, mine, x, labels),
        "ModuleDict loop": loop_step(loop, theirs, x, labels),
    }
    times = harness.interleave(steps, settings.pairs, settings.device)
    note = f"{len(heads)} heads of {classes} classes on a frozen {name}, batch {batch}, {size} px; a parameter group per head"
    for side in ("ours", "ours, a loss per head"):
        yield harness.ratio_row(
            "dinov2_heads", "training step with losses" + side.removeprefix("ours"), times, "ModuleDict loop", side,
            settings, baseline="ModuleDict loop", note=note, target=Target(">=", 0.98) if side == "ours" else None,
        )  # fmt: skip
