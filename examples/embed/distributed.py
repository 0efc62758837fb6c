"""DDP and FSDP2 on two CPU processes: wrap the compiled model, or shard its stages.

python examples/embed/distributed.py [ddp|fsdp2]
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": {"shape": [3, 32, 32]}},
    # Group norm: a sample's result does not depend on the others, so that two processes give what one gives.
    "trunk": {"name": "resnet", "depth": 18, "norm": "GroupNorm"},
    "heads": {"head": {"mlp": {"dims": ["auto", 4]}}},
    "returns": "tensor",
}


def build() -> nn.Module:
    return graphmodel.compile(SPEC, seed=0)


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def wrap(model: nn.Module, how: str) -> nn.Module:
    """The model under DDP, or with every called stage sharded by FSDP2 and the root around them."""
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    called = {str(n.target) for n in model.model_graph.nodes.values() if n.call == "module"}
    for path in called:
        stage = model.get_submodule(path)
        if any(True for _ in stage.parameters()):
            fully_shard(stage, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        found[name.removeprefix("module.")] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


def work(rank: int, how: str, rendezvous: str, target: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = wrap(build(), how)
    mine = batch()[rank * 2 : rank * 2 + 2]
    model(mine).pow(2).mean().backward()
    found = gradients(model)
    if rank == 0:
        torch.save(found, target)
    dist.barrier()
    dist.destroy_process_group()


def run(how: str) -> dict[str, torch.Tensor]:
    """Gradients after one step on two processes."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "gradients.pt")
        mp.start_processes(work, (how, os.path.join(folder, "meet"), target), nprocs=2, start_method="spawn")
        found: dict[str, torch.Tensor] = torch.load(target, weights_only=True)
    return found


if __name__ == "__main__":
    how = sys.argv[1] if len(sys.argv) > 1 else "ddp"
    norm = sum(float(g.pow(2).sum()) for g in run(how).values()) ** 0.5
    print(f"{how}: gradient norm {norm:.4f}")
