"""A pipeline of two processes on scikit-learn's digits, with the numbers of one process.

torchrun --nproc-per-node 2 examples/embed/pipeline.py [--schedule gpipe|1f1b] [--steps N] [--report FILE]

Started without torchrun, it runs the same small batches in one process and accumulates their gradients: a pipeline
computes BatchNorm for each small batch, too.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import SPEC, batches, parser, rank_and_world, start
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

import graphmodel

PARTS = 4
SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def loss_of(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs["digit"], labels)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """The loss of every step, in the process of the last stage; nothing in the others."""
    model = graphmodel.compile(SPEC, seed=0).double()
    rank, world = rank_and_world()
    if dist.is_initialized():
        split = graphmodel.split_pipeline(model, stages=world)
        stage = split.stage(rank)
        schedule = SCHEDULES[arguments.schedule](stage, n_microbatches=PARTS, loss_fn=split.loss(loss_of))
        model = split.modules[rank]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found = []
    for images, labels in batches(arguments.steps, dtype=torch.double):
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        if not dist.is_initialized():
            for x, y in zip(images.chunk(PARTS), labels.chunk(PARTS), strict=True):
                loss = loss_of(model(x), y)
                (loss / PARTS).backward()
                losses.append(loss.detach())
        elif rank == 0:
            schedule.step(images)
        else:
            schedule.step(target=labels, losses=losses)
        optimizer.step()
        found.append(sum(loss.item() for loss in losses) / PARTS)
    if rank < world - 1:
        return {}
    print(f"loss {found[0]:.4f} -> {found[-1]:.4f}")
    return {"losses": found}


def main(argv: list[str] | None = None) -> None:
    options = parser(steps=25)
    options.add_argument("--schedule", choices=SCHEDULES, default="1f1b")
    start(options.parse_args(argv), train)


if __name__ == "__main__":
    main()
