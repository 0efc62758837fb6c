"""DistributedDataParallel on scikit-learn's digits: two processes train with the numbers of one.

torchrun --nproc-per-node 2 examples/embed/ddp.py [--compile inside|outside] [--freeze] [--double] [--steps N]

Started without torchrun, it trains in one process on the same batches.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from digits import digits
from processes import SPEC, batches, mean_over_processes, parser, rank_and_world, start, synchronize_norms
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import graphmodel


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    rank, world = rank_and_world()
    spec = {**SPEC, "freeze": ["trunk.stem", "trunk.trunk_output.block1"] if arguments.freeze else []}
    model = synchronize_norms(graphmodel.compile(spec, seed=0))
    if arguments.double:
        model = model.double()
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "block1" in name or "stem" in name}
    run: nn.Module = model
    if arguments.compile == "inside":
        run = torch.compile(run)
    if dist.is_initialized():
        run = DistributedDataParallel(run)
    if arguments.compile == "outside":
        run = torch.compile(run)

    dtype = torch.double if arguments.double else torch.float32
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for step, (images, labels) in enumerate(batches(arguments.steps, dtype=dtype)):
        loss = F.cross_entropy(run(images[rank::world])["digit"], labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_processes(loss))
        if rank == 0 and step % 10 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")

    model.eval()
    _, _, images, labels = digits()
    with torch.no_grad():
        accuracy = (model(images.to(dtype))["digit"].argmax(1) == labels).float().mean().item()
    state = model.state_dict()
    frozen_moved = [name for name, value in frozen.items() if not torch.equal(value, state[name])]
    if rank == 0:
        print(f"accuracy {accuracy:.3f}")
    return {"losses": losses, "accuracy": accuracy, "frozen_moved": frozen_moved} if rank == 0 else {}


def main(argv: list[str] | None = None) -> None:
    options = parser(steps=50)
    options.add_argument("--compile", choices=("no", "inside", "outside"), default="no")
    options.add_argument("--freeze", action="store_true")
    options.add_argument("--double", action="store_true", help="double precision, to compare runs")
    start(options.parse_args(argv), train)


if __name__ == "__main__":
    main()
