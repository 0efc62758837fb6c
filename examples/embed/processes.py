"""What the examples on several processes share: norms over all processes, batches, and how a script starts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from digits import TRUNK, digits
from torch import nn
from torch.distributed.nn.functional import all_reduce

SPEC: dict[str, Any] = {
    "inputs": {"images": {"shape": [3, 16, 16]}},
    "trunk": TRUNK,
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}},
}


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
            if self.num_batches_tracked is not None:  # it is while `checkpoint` computes again
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


def rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def batches(
    steps: int, size: int = 64, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches in every process; each process takes its own part with `[rank::world]`."""
    images, labels, *_ = digits()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(0, len(images), (size,), generator=generator)
        yield images[batch].to(dtype), labels[batch]


def mean_over_processes(value: torch.Tensor) -> float:
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.item()


def parser(steps: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--report", type=Path, help="a file for what the script reports, as JSON")
    return made


def start(arguments: argparse.Namespace, run: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Runs a script in this process, in a group if torchrun started it; the process with a report writes it."""
    torch.set_num_threads(1)
    joins = "RANK" in os.environ and not dist.is_initialized()
    if joins:
        dist.init_process_group("gloo")
    report = run(arguments)
    if report and arguments.report:
        arguments.report.write_text(json.dumps(report), "utf-8")
    if joins:
        dist.destroy_process_group()
