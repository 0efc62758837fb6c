"""Very large models on meta: time and memory from a spec to checked shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from benchmarks.harness import Row, Settings, Target
from benchmarks.workloads.registry import workload

PROGRAM = """
import json, resource, sys, time
import torch, torchvision, timm, graphmodel, graphmodel.api
from graphmodel.components import registry
torch.set_num_threads(1)
small = {"inputs": {"images": {"shape": [3, 32, 32]}}, "trunk": {"name": "resnet", "depth": 18}}
graphmodel.compile(small, device="meta")  # imports what is imported on first use
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
spec = json.loads(sys.argv[1])
before, start = peak(), time.process_time()
model = graphmodel.compile(spec, device="meta")
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "bytes": peak() - before, "parameters": sum(p.numel() for p in model.parameters())}))
"""

SEER_10B = {"name": "regnet", "depth": 27, "w_0": 1744, "w_a": 620.83, "w_m": 2.52, "group_width": 1010}
"""Source: facebookresearch/vissl, configs/config/pretrain/swav/models/regnet10B.yaml"""

SEER = {"name": "regnet", "depth": 27, "w_0": 640, "w_a": 230.83, "w_m": 2.53, "group_width": 373}
"""Source: facebookresearch/vissl, configs/config/benchmark/fulltune/imagenet1k/models/regnet256Gf_1.yaml"""

VIT_100B = {
    "name": "vision_transformer", "image_size": 224, "patch_size": 16, "hidden_dim": 12288, "num_layers": 56,
    "num_heads": 96, "mlp_dim": 49152,
}  # fmt: skip


def measured(spec: dict[str, Any]) -> dict[str, float]:
    """Seconds and bytes in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(spec)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@workload("meta")
def meta(settings: Settings) -> Iterator[Row]:
    """RegNets of 1.3 and 10 billion parameters and a ViT of 100 billion, from spec to checked shapes."""
    models: dict[str, tuple[Any, Target | None, Target | None]] = {
        "RegNet 1.3 B": (SEER, None, None),
        "RegNet 10 B": (SEER_10B, Target("<=", 1.0), Target("<=", 10.0)),
        "ViT 100 B (width 12,288, depth 56)": (VIT_100B, Target("<=", 2.0), Target("<=", 20.0)),
    }
    for name, (trunk, seconds, megabytes) in list(models.items())[: 1 if settings.quick else None]:
        spec = {"inputs": {"images": {"shape": [3, 224, 224]}}, "trunk": trunk}
        runs = [measured(spec) for _ in range(1 if settings.quick else min(settings.pairs, 3))]
        times, sizes = sorted(r["seconds"] for r in runs), sorted(r["bytes"] / 1e6 for r in runs)
        middle, note = len(runs) // 2, f'{runs[0]["parameters"] / 1e9:.1f} B parameters, `device="meta"`'
        common: dict[str, Any] = {"pairs": len(runs), "device": harness.device_name("cpu"), "note": note}
        yield Row(
            "meta", f"{name}: spec to shapes", times[middle], unit="s CPU", low=times[0], high=times[-1],
            target=seconds, **common,
        )  # fmt: skip
        yield Row(
            "meta", f"{name}: memory over imports", sizes[middle], unit="MB", low=sizes[0], high=sizes[-1],
            target=megabytes, **common,
        )  # fmt: skip
