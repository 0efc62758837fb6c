"""FSDP2 on scikit-learn's digits: sharded by plan, built in shards, checkpointed, and loaded into a single process.

torchrun --nproc-per-node 2 examples/embed/fsdp2.py [--freeze] [--double] [--steps N] [--checkpoint DIR]

Started without torchrun, it trains in one process on the same batches; with `--load DIR` it evaluates a checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from digits import digits
from processes import SPEC, batches, mean_over_processes, parser, rank_and_world, start, synchronize_norms
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import graphmodel

# A frozen trunk and a head with BatchNorm, whose statistics are those of both processes.
FROZEN: dict[str, Any] = {
    **SPEC,
    "freeze": ["trunk"],
    "heads": {"digit": {"mlp": {"dims": ["auto", 128, 10], "use_bn": True, "use_relu": True}}},
}


def build(arguments: argparse.Namespace, seed: int = 0) -> graphmodel.CompiledModel:
    """The model: whole in one process; in several, each builds the shards that it holds and no more."""
    spec = FROZEN if arguments.freeze else SPEC
    if not dist.is_initialized():
        model = graphmodel.compile(spec, seed=seed)
        return model.double() if arguments.double else model
    model = synchronize_norms(graphmodel.compile(spec, device="meta"))
    if arguments.double:
        model = model.double()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for stage in graphmodel.shard_plan(model):
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return graphmodel.materialise(model, seed=seed)


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)


def evaluate(model: torch.nn.Module) -> dict[str, float]:
    _, _, images, labels = digits()
    model.eval()
    with torch.no_grad():
        logits = model(images.to(next(model.parameters()).dtype))["digit"]
    accuracy = (logits.argmax(1) == labels).float().mean()
    return {"accuracy": accuracy.item(), "test_loss": F.cross_entropy(logits, labels).item()}


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    rank, world = rank_and_world()
    model = build(arguments)
    optimizer = optimizer_of(model)
    losses = []
    for step, (images, labels) in enumerate(batches(arguments.steps, dtype=next(model.parameters()).dtype)):
        loss = F.cross_entropy(model(images[rank::world])["digit"], labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_processes(loss))
        if rank == 0 and step % 10 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")
    report: dict[str, Any] = {"losses": losses, **evaluate(model)}
    if arguments.checkpoint:
        save(arguments.checkpoint, model, optimizer)
        other = build(arguments, seed=1)
        load(arguments.checkpoint, other, optimizer_of(other))
        report["reloaded"] = evaluate(other)
    return report


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Every process writes its shards."""
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Every process reads what it holds: two shards, other shards, or everything in a single process."""
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.load:
        model = build(arguments, seed=2)
        load(arguments.load, model, optimizer_of(model))
        report: dict[str, Any] = evaluate(model)
    else:
        report = train(arguments)
    if rank_and_world()[0] > 0:
        return {}
    print(f"accuracy {report['accuracy']:.3f}")
    return report


def main(argv: list[str] | None = None) -> None:
    options = parser(steps=50)
    options.add_argument("--freeze", action="store_true")
    options.add_argument("--double", action="store_true", help="double precision, to compare runs")
    options.add_argument("--checkpoint", type=Path)
    options.add_argument("--load", type=Path)
    start(options.parse_args(argv), run)


if __name__ == "__main__":
    main()
