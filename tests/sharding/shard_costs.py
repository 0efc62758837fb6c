"""What each process holds and receives in a training step, measured; `tests/two_processes.py` runs it."""

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from processes import SPEC, batches, parser, start
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import graphmodel


class Collectives(TorchDispatchMode):
    """Counts the bytes of every collective, as torch's C++ code calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            # The whole tensor is the result of a gathering, and what a reduction starts from.
            whole = args[0] if "allgather" in name else args[1]
            self.bytes[name] += sum(t.nbytes for t in tensors(whole))
        return func(*args, **(kwargs or {}))


def tensors(value: Any) -> Iterable[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [t for item in value for t in tensors(item)]


def held(values: Iterable[Any]) -> int:
    return sum(v.to_local().nbytes if hasattr(v, "to_local") else v.nbytes for v in values)


def step(model: nn.Module, run: nn.Module) -> dict[str, int]:
    """Trains one step and returns the bytes that this process holds."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    [(images, _)] = batches(1, 4)
    run(images[dist.get_rank() :: 2])["digit"].sum().backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return {
        "parameters": held(model.parameters()),
        "gradients": held(p.grad for p in trained),
        "optimizer": held(states),
        "buffers": held(model.buffers()),
    }


def measure(_: argparse.Namespace) -> dict[str, Any]:
    world = dist.get_world_size()
    meta = graphmodel.compile(SPEC, device="meta")
    row = graphmodel.shard_table(meta, (world,), batch=2).rows[0]
    sharded = graphmodel.materialise(meta, mesh=dist.init_device_mesh("cpu", (world,)), seed=0)
    with Collectives() as counted:
        found = step(sharded, sharded)
    found["received"] = sum(counted.bytes.values()) * (world - 1) // world

    whole = graphmodel.compile(SPEC, seed=0)
    ddp = DistributedDataParallel(whole)
    reduced = 0

    def count(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        nonlocal reduced
        reduced += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    ddp.register_comm_hook(None, count)
    step(whole, ddp)
    found["ddp_received"] = 2 * reduced * (world - 1) // world + held(whole.buffers())
    every: list[Any] = [None] * world
    dist.all_gather_object(every, found)
    computed = {name: getattr(row, name) for name in found}
    return {"measured": every, "computed": computed, "collectives": counted.bytes} if dist.get_rank() == 0 else {}


def main(argv: list[str] | None = None) -> None:
    start(parser(steps=1).parse_args(argv), measure)
