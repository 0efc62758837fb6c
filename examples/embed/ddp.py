"""DistributedDataParallel on scikit-learn's digits: two processes train with the numbers of one.

torchrun --nproc-per-node 2 examples/embed/ddp.py [--compile inside|outside] [--freeze] [--double] [--steps N]

Started without torchrun, it trains in one process on the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": {"shape": [3, 16, 16]}},
    "trunk": {
        "name": "regnet",
        "variant": "anynet",
        "depths": [1, 1, 1],
        "widths": [32, 64, 128],
        "group_widths": [8, 8, 8],
        "bottleneck_multipliers": [1.0, 1.0, 1.0],
        "strides": [1, 2, 2],
    },
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}},
}
BATCH = 64


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's SyncBatchNorm runs on GPUs only; this is the same for processes on CPUs."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        x = input.double()
        dims = [0, *range(2, x.dim())]
        count = x.new_full((x.shape[1],), x.numel() / x.shape[1])
        count, total, squares = all_reduce(torch.stack([count, x.sum(dims), x.square().sum(dims)]))
        mean, var = total / count, squares / count - (total / count).square()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shape = [1, -1] + [1] * (x.dim() - 2)
        return (x * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(input)


def synchronize_norms(model: nn.Module) -> nn.Module:
    """Converts every BatchNorm that trains; frozen ones keep their statistics."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not torch.cuda.is_available():
        for module in model.modules():
            if type(module) is nn.SyncBatchNorm:
                module.__class__ = CpuSyncBatchNorm
    return model


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of handwritten digits."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    return F.interpolate(images, size=16).expand(-1, 3, -1, -1), torch.tensor(found.target)


def mean_over_processes(value: torch.Tensor) -> float:
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.item()


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    spec = {**SPEC, "freeze": ["trunk.stem", "trunk.trunk_output.block1"] if arguments.freeze else []}
    model = synchronize_norms(graphmodel.compile(spec, seed=0))
    if arguments.double:
        model = model.double()
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "block1" in name or "stem" in name}
    run: nn.Module = model
    if arguments.compile == "inside":
        run = torch.compile(run, backend=arguments.backend)
    if dist.is_initialized():
        run = DistributedDataParallel(run)
    if arguments.compile == "outside":
        run = torch.compile(run, backend=arguments.backend)

    images, labels = digits()
    images = images.double() if arguments.double else images
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)  # every process draws the same batch and takes its own part
    losses = []
    for step in range(arguments.steps):
        batch = torch.randint(0, 1500, (BATCH,), generator=generator)[rank::world]
        loss = F.cross_entropy(run(images[batch])["digit"], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_processes(loss))
        if rank == 0 and step % 10 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")

    model.eval()
    with torch.no_grad():
        right = model(images[1500:])["digit"].argmax(1) == labels[1500:]
    state = model.state_dict()
    return {
        "losses": losses,
        "accuracy": right.float().mean().item(),
        "frozen_moved": [name for name, value in frozen.items() if not torch.equal(value, state[name])],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compile", choices=("no", "inside", "outside"), default="no")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--double", action="store_true", help="double precision, to compare runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    report = train(arguments)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"accuracy {report['accuracy']:.3f}")
        if arguments.report:
            arguments.report.write_text(json.dumps(report), "utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
