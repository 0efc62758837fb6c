"""A pipeline of two processes on scikit-learn's digits, with the numbers of one process.

torchrun --nproc-per-node 2 examples/embed/pipeline.py [--schedule gpipe|1f1b] [--steps N] [--report FILE]

Started without torchrun, it runs the same small batches in one process and accumulates their gradients: a pipeline
computes BatchNorm for each small batch, too.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import ddp
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

import graphmodel

PARTS = 4
SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def loss_of(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs["digit"], labels)


def train(arguments: argparse.Namespace) -> list[float]:
    """The loss of every step, in the process of the last stage."""
    model = graphmodel.compile(ddp.SPEC, seed=0).double()
    images, labels = ddp.digits()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 1500, (ddp.BATCH,), generator=generator) for _ in range(arguments.steps)]
    rank = dist.get_rank() if dist.is_initialized() else 0
    if dist.is_initialized():
        split = graphmodel.split_pipeline(model, stages=dist.get_world_size())
        stage = split.stage(rank)
        schedule = SCHEDULES[arguments.schedule](stage, n_microbatches=PARTS, loss_fn=split.loss(loss_of))
        model = split.modules[rank]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found = []
    for batch in batches:
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        if not dist.is_initialized():
            for part in batch.chunk(PARTS):
                loss = loss_of(model(images[part].double()), labels[part])
                (loss / PARTS).backward()
                losses.append(loss.detach())
        elif rank == 0:
            schedule.step(images[batch].double())
        else:
            schedule.step(target=labels[batch], losses=losses)
        optimizer.step()
        found.append(sum(loss.item() for loss in losses) / PARTS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", choices=SCHEDULES, default="1f1b")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    losses = train(arguments)
    if not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1:
        print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        if arguments.report:
            arguments.report.write_text(json.dumps({"losses": losses}), "utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
