"""Measures the peak memory of each process that builds its shards of a large model.

torchrun --nproc-per-node 2 benchmarks/sharded_memory.py [--variant regnet_y_256gf]

The default is SEER's RegNetY-256GF of 1.3 billion parameters (Goyal et al. 2021, arXiv:2103.01988), with the five numbers
of VISSL's configuration `regnet256Gf`; ClassyVision's `regnet_y_256gf` is another design, of 0.8 billion.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import graphmodel

MIB = 2**20
SEER = {"depth": 27, "w_0": 640, "w_a": 230.83, "w_m": 2.53, "group_width": 373}


def resident() -> float:
    """MiB of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MIB


def peak() -> float:
    """MiB of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", help="a RegNet by name; SEER's of 1.3 billion parameters if left out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    design = SEER if arguments.variant is None else {"variant": arguments.variant}
    spec = {"inputs": {"images": [3, 224, 224]}, "trunk": {"name": "regnet", **design}}
    model = graphmodel.compile(spec, device="meta")
    whole = sum(p.numel() * p.element_size() for p in model.parameters()) / MIB
    largest = max(p.numel() * p.element_size() for p in model.parameters()) / MIB
    before, start = resident(), time.perf_counter()
    graphmodel.materialise(model, mesh=mesh, seed=0)
    seconds = time.perf_counter() - start
    shards = sum(p.to_local().numel() * p.element_size() for p in model.parameters()) / MIB
    for rank in range(dist.get_world_size()):
        dist.barrier()
        if rank == dist.get_rank():
            print(
                f"rank {rank}: whole model {whole:,.0f} MiB, own shards {shards:,.0f} MiB, largest parameter "
                f"{largest:,.0f} MiB; peak while building {peak() - before:,.0f} MiB above {before:,.0f} MiB before, "
                f"{seconds:.0f} s",
                flush=True,
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
