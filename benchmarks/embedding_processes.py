"""What `python -m benchmarks.embedding` runs on two processes; torchrun starts it.

torchrun --nproc-per-node 2 -m benchmarks.embedding_processes FOLDER NAME ..., where FOLDER holds wanted.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

import graphmodel
from benchmarks.embedding_ways import PARTS, ROOT, SPEC, batches, compiled, library_names, sgd, train

sys.path.insert(0, str(ROOT / "examples" / "embed"))
from processes import synchronize_norms

Result = tuple[list[float], dict[str, torch.Tensor]]


def mean(losses: list[float]) -> list[float]:
    """The losses of all processes together."""
    total = torch.tensor(losses, dtype=torch.double)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()  # type: ignore[no-any-return]


def data_parallel(order: str) -> Result:
    """DDP, with `torch.compile` inside, outside or not at all."""
    torch.compiler.reset()
    model = synchronize_norms(compiled())
    run: Any = torch.compile(model) if order == "inside" else model
    run = DistributedDataParallel(run)
    run = torch.compile(run) if order == "outside" else run
    share = slice(dist.get_rank(), None, dist.get_world_size())
    return mean(train(model, run, share=share)), dict(model.state_dict())


def sharded() -> Result:
    """FSDP2 by the plan, built from the meta device."""
    model: nn.Module = synchronize_norms(graphmodel.compile(SPEC, device="meta"))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for stage in graphmodel.shard_plan(model):  # type: ignore[arg-type]
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    graphmodel.materialise(model, seed=0)  # type: ignore[arg-type]
    model.double()
    losses = mean(train(model, model, share=slice(dist.get_rank(), None, dist.get_world_size())))
    state = model.state_dict()
    return losses, {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}


def pipeline(kind: Any) -> Result:
    """A stage in each process; the last one has the losses, and gets the weights of all."""
    rank, world = dist.get_rank(), dist.get_world_size()
    split = graphmodel.split_pipeline(compiled(), world)
    loss_of = split.loss(lambda outputs, labels: F.cross_entropy(outputs["digit"], labels))
    schedule = kind(split.stage(rank), n_microbatches=PARTS, loss_fn=loss_of)
    optimizer, found = sgd(split.modules[rank]), []
    for images, labels in batches():
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        if rank == 0:
            schedule.step(images)
        else:
            schedule.step(target=labels, losses=losses)
        optimizer.step()
        found.append(sum(loss.item() for loss in losses) / PARTS)
    states: list[Any] = [None] * world
    dist.all_gather_object(states, dict(split.modules[rank].state_dict()))
    return mean([loss * world for loss in found]), {name: t for state in states for name, t in state.items()}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    wanted = torch.load(folder / "wanted.pt")
    runs = {
        "DDP": (1, lambda: data_parallel("")),
        "DDP(torch.compile)": (1, lambda: data_parallel("inside")),
        "torch.compile(DDP)": (1, lambda: data_parallel("outside")),
        "FSDP2": (1, sharded),
        "pipeline, GPipe": (PARTS, lambda: pipeline(ScheduleGPipe)),
        "pipeline, 1F1B": (PARTS, lambda: pipeline(Schedule1F1B)),
    }
    found = {}
    for name in names:
        parts, run = runs[name]
        losses, state = run()
        expected, weights = wanted[True, parts]
        named = library_names(state)
        assert named.keys() == weights.keys()
        moved = [(named[n].double() - w.double()).abs().max().item() for n, w in weights.items()]
        found[name] = max(moved + [abs(a - b) for a, b in zip(losses, expected, strict=True)])
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
