"""FSDP2 on scikit-learn's digits: sharded by plan, built in shards, checkpointed, and loaded into a single process.

torchrun --nproc-per-node 2 examples/embed/fsdp2.py [--freeze] [--double] [--steps N] [--checkpoint DIR]

Started without torchrun, it trains in one process on the same batches; with `--load DIR` it evaluates a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import ddp
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import graphmodel

# A frozen trunk and a head with BatchNorm, whose statistics are those of both processes.
FROZEN: dict[str, Any] = {
    **ddp.SPEC,
    "freeze": ["trunk"],
    "heads": {"digit": {"mlp": {"dims": ["auto", 128, 10], "use_bn": True, "use_relu": True}}},
}


def build(arguments: argparse.Namespace, seed: int = 0) -> graphmodel.CompiledModel:
    """The model: whole in one process; in several, each builds the shards that it holds and no more."""
    spec = FROZEN if arguments.freeze else ddp.SPEC
    if not dist.is_initialized():
        model = graphmodel.compile(spec, seed=seed)
        return model.double() if arguments.double else model
    model = ddp.synchronize_norms(graphmodel.compile(spec, device="meta"))
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
    images, labels = ddp.digits()
    model.eval()
    with torch.no_grad():
        logits = model(images[1500:].to(next(model.parameters()).dtype))["digit"]
    accuracy = (logits.argmax(1) == labels[1500:]).float().mean()
    return {"accuracy": accuracy.item(), "test_loss": F.cross_entropy(logits, labels[1500:]).item()}


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = build(arguments)
    optimizer = optimizer_of(model)
    images, labels = ddp.digits()
    images = images.double() if arguments.double else images
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(arguments.steps):
        batch = torch.randint(0, 1500, (ddp.BATCH,), generator=generator)[rank::world]
        loss = F.cross_entropy(model(images[batch])["digit"], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(ddp.mean_over_processes(loss))
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--double", action="store_true", help="double precision, to compare runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    if arguments.load:
        model = build(arguments, seed=2)
        load(arguments.load, model, optimizer_of(model))
        report: dict[str, Any] = evaluate(model)
    else:
        report = train(arguments)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"accuracy {report['accuracy']:.3f}")
        if arguments.report:
            arguments.report.write_text(json.dumps(report), "utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
