"""Times a step of compiled models against the module a careful person writes by hand and against VISSL's loop.

    python benchmarks/step.py [--pairs 15] [--only pirl] [--json FILE]

For each model the contestants hold the same weights and run in one process, one thread, turn by turn (A B C, C B A,
…); CPU time (`time.process_time`) is taken. Printed are ratios pair by pair (median, min, max): ours over the
hand-written module's, and the loop's over ours. Parameters are counted too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18

import graphmodel

Step = Callable[[], None]


class Stages(nn.Module):
    """A ResNet-18 by hand: returns the features that are asked for, no stage past the last of them."""

    def __init__(self, last: int = 4) -> None:
        super().__init__()
        model = resnet18()
        self.conv1, self.bn1, self.relu, self.maxpool = model.conv1, model.bn1, model.relu, model.maxpool
        self.layers = nn.ModuleList([model.layer1, model.layer2, model.layer3, model.layer4][:last])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(out[0])
        for layer in self.layers:
            x = layer(x)
            out.append(x)
        return out


class HandPirl(nn.Module):
    """Images and patches through one trunk, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.image = Stages(), nn.Linear(512, 128)
        self.first, self.last = nn.Linear(512, 128), nn.Linear(1152, 128)

    def forward(self, images: torch.Tensor, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        image = self.image(self.trunk(images)[-1].mean((2, 3)))
        rows = self.first(self.trunk(patches)[-1].mean((2, 3)))
        return {"image": image, "jigsaw": self.last(rows.view(rows.size(0) // 9, -1))}


class HandSwav(nn.Module):
    """Two resolutions, one trunk pass each, one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Stages()
        self.projection = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 128)
        )
        self.prototypes = nn.Linear(128, 300, bias=False)

    def forward(self, crops: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        large, small = torch.cat(crops[:2]), torch.cat(crops[2:])
        feature = torch.cat([self.trunk(large)[-1].mean((2, 3)), self.trunk(small)[-1].mean((2, 3))])
        x = nn.functional.normalize(self.projection(feature), dim=1)
        return {"embedding": x, "prototypes": self.prototypes(x)}


class HandLinear(nn.Module):
    """Five probes on five layers of a frozen trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Stages()
        for parameter in self.trunk.parameters():
            parameter.requires_grad_(False)
        channels = (64, 64, 128, 256, 512)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.probes = nn.ModuleList(nn.Linear(c * 4, 100) for c in channels)

    def train(self, mode: bool = True) -> HandLinear:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        pooled = [nn.functional.adaptive_avg_pool2d(f, 2) for f in self.trunk(images)]
        return [p(n(x).flatten(1)) for x, n, p in zip(pooled, self.norms, self.probes, strict=True)]


class HandTiny(nn.Module):
    """Two small convolutions: a model of about a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = TinyConv(), nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


@graphmodel.register_trunk("benchmark_tiny")
class TinyConv(nn.Module):
    """Two convolutions and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))).mean((2, 3))


class HandNano(nn.Module):
    """Three 8-wide linear layers on two samples, some 35 microseconds: nothing but overheads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = Nano(), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


@graphmodel.register_trunk("benchmark_nano")
class Nano(nn.Module):
    """Two small layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class VisslLoop(nn.Module):
    """A model as VISSL runs it: stages in a ModuleDict, heads in a list, one trunk pass per input key."""

    def __init__(self, mapping: list[tuple[str, str]], heads: list[nn.Module]) -> None:
        super().__init__()
        model = resnet18()
        self.blocks = nn.ModuleDict(
            {
                "conv1": model.conv1, "bn1": model.bn1, "relu": model.relu, "maxpool": model.maxpool, "res2": model.layer1,
                "res3": model.layer2, "res4": model.layer3, "res5": model.layer4, "avgpool": model.avgpool,
                "flatten": nn.Flatten(1),
            }
        )  # fmt: skip
        self.mapping, self.heads = mapping, nn.ModuleList(heads)

    def trunk(self, x: torch.Tensor, wanted: str) -> torch.Tensor:
        for name, block in self.blocks.items():
            x = block(x)
            if name == wanted:
                break
        return x

    def forward(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [head(self.trunk(batch[key], name)) for (key, name), head in zip(self.mapping, self.heads, strict=True)]


def mlp(*dims: Any) -> dict[str, Any]:
    return {"mlp": {"dims": ["auto", *dims]}}


RESNET = {"name": "resnet", "depth": 18}


def models() -> dict[str, tuple[dict[str, Any], nn.Module, nn.Module | None, list[Any], Any]]:
    """Spec, hand-written module, VISSL's loop, our arguments, the loop's argument."""
    images, patches = torch.randn(4, 3, 96, 96), torch.randn(36, 3, 32, 32)
    crops = [torch.randn(4, 3, 96, 96) for _ in range(2)] + [torch.randn(4, 3, 48, 48) for _ in range(6)]
    pirl = {
        "inputs": {"images": {"shape": [3, 96, 96]}, "patches": {"shape": [3, 32, 32]}}, "trunk": RESNET,
        "heads": {"image": mlp(128), "jigsaw": [mlp(128), {"siamese_concat_view": {"num_towers": 9}}, mlp(128)]},
        "mapping": {"images": {"flatten": "image"}, "patches": {"flatten": "jigsaw"}},
    }  # fmt: skip
    swav = {
        "inputs": {"crops": {"views": [{"count": 2, "shape": [3, 96, 96]}, {"count": 6, "shape": [3, 48, 48]}]}},
        "trunk": RESNET,
        "heads": {"swav": {"swav_head": {"dims": ["auto", 512, 128], "use_bn": True, "num_clusters": [300]}}},
    }
    layers = ("conv1", "res2", "res3", "res4", "res5")
    linear = {
        "inputs": {"images": {"shape": [3, 96, 96]}}, "trunk": {**RESNET, "freeze": True},
        "heads": {f"probe_{n}": {"eval_mlp": {"dims": ["auto", 100]}} for n in layers},
        "mapping": {"images": {n: {"pool": {"adaptive_avg_pool2d": 2}, "head": f"probe_{n}"} for n in layers}},
    }  # fmt: skip
    three = {
        "inputs": {"images": {"shape": [3, 96, 96]}}, "trunk": RESNET,
        "heads": {"a": mlp(128), "b": mlp(128), "c": mlp(128)},
        "mapping": [{"from": "images.flatten", "head": h} for h in "abc"],
    }  # fmt: skip
    tiny = {
        "inputs": {"images": {"shape": [3, 32, 32]}}, "trunk": "benchmark_tiny", "heads": {"head": mlp(4)},
        "returns": "tensor",
    }  # fmt: skip
    nano = {
        "inputs": {"images": {"shape": [8]}},
        "trunk": "benchmark_nano",
        "heads": {"head": mlp(4)},
        "returns": "tensor",
    }
    chain = nn.Sequential(nn.Linear(512, 128), Rows(9), nn.Linear(1152, 128))
    loop_pirl = VisslLoop([("images", "flatten"), ("patches", "flatten")], [nn.Linear(512, 128), chain])
    loop_three = VisslLoop([("images", "flatten")] * 3, [nn.Linear(512, 128) for _ in range(3)])
    return {
        "pirl": (pirl, HandPirl(), loop_pirl, [images, patches], {"images": images, "patches": patches}),
        "swav": (swav, HandSwav(), None, [crops], None),
        "linear_eval": (linear, HandLinear(), None, [images], None),
        "three_entries": (three, HandThree(), loop_three, [images], {"images": images}),
        "tiny": (tiny, HandTiny(), None, [torch.randn(8, 3, 32, 32)], None),
        "nano": (nano, HandNano(), None, [torch.randn(2, 8)], None),
    }


class Rows(nn.Module):
    """Joins the rows of a sample."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0) // self.count, -1)


class HandThree(nn.Module):
    """Three heads on one feature, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Stages()
        self.heads = nn.ModuleList(nn.Linear(512, 128) for _ in range(3))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        feature = self.trunk(images)[-1].mean((2, 3))
        return [head(feature) for head in self.heads]


def total(value: Any) -> torch.Tensor:
    """The sum of every tensor of a result."""
    if isinstance(value, torch.Tensor):
        return value.sum()
    return sum((total(v) for v in (value.values() if isinstance(value, dict) else value)), torch.zeros(()))


def step(module: nn.Module, arguments: list[Any], backward: bool, repeat: int) -> Step:
    def run() -> None:
        for _ in range(repeat):
            if backward:
                total(module(*arguments)).backward()
                module.zero_grad(set_to_none=True)
            else:
                with torch.no_grad():
                    module(*arguments)

    return run


def measure(contestants: dict[str, Step], pairs: int) -> dict[str, list[float]]:
    """CPU seconds of each, turn by turn, the order reversed every other turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for turn in range(pairs):
        for name in list(contestants) if turn % 2 == 0 else list(contestants)[::-1]:
            start = time.process_time()
            contestants[name]()
            times[name].append(time.process_time() - start)
    return times


def ratios(a: list[float], b: list[float]) -> dict[str, float]:
    each = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (spec, hand, loop, ours_in, loop_in) in models().items():
        if options.only not in name:
            continue
        ours = graphmodel.compile(spec, seed=0)
        assert count(ours) <= count(hand), f"{name}: {count(ours)} parameters against {count(hand)}"
        for backward in (False, True):
            repeat = {"tiny": 50, "nano": 300}.get(name, 1)
            contestants = {"ours": step(ours, ours_in, backward, repeat), "hand": step(hand, ours_in, backward, repeat)}
            if loop is not None:
                contestants["loop"] = step(loop, [loop_in], backward, repeat)
            times = measure(contestants, options.pairs * (4 if repeat > 1 else 1))
            row: dict[str, Any] = {"model": name, "pass": "forward+backward" if backward else "forward"}
            row["ours/hand"] = ratios(times["ours"], times["hand"])
            if loop is not None:
                row["loop/ours"] = ratios(times["loop"], times["ours"])
            row["parameters"] = {"ours": count(ours), "hand": count(hand)}
            rows.append(row)
            shown = "   ".join(
                f"{k} {v['median']:.3f} ({v['min']:.3f}–{v['max']:.3f})" for k, v in row.items() if "/" in k
            )
            print(f"{name:14s} {row['pass']:17s} {shown}   parameters {count(ours):,} / {count(hand):,}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
