"""Trains pipelines of several models, and the models in one process; `tests/two_processes.py` runs it."""

import argparse
from typing import Any

import torch
import torch.distributed as dist
from digits import TRUNK
from processes import parser, start
from torch.distributed.pipelining import Schedule1F1B

import graphmodel

PARTS = 4
LABEL = {"label": {"mlp": {"dims": ["auto", 5]}}}
CROPS = [{"count": 2, "shape": [3, 16, 16]}, {"count": 2, "shape": [3, 8, 8]}]
SWAV = {"swav_head": {"dims": ["auto", 16, 8], "use_bn": True, "num_clusters": [7]}}
CASES: dict[str, dict[str, Any]] = {
    "vit": {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 4},
        "heads": LABEL,
    },
    "crops": {"inputs": {"crops": {"views": CROPS}}, "trunk": TRUNK, "heads": {"swav": SWAV}},
}


def inputs_of(name: str) -> list[Any]:
    torch.manual_seed(0)
    if name == "vit":
        return [torch.randn(8, 3, 32, 32, dtype=torch.double)]
    return [[torch.randn(8, 3, size, size, dtype=torch.double) for size in (16, 16, 8, 8)]]


def loss_of(outputs: dict[str, torch.Tensor], _: Any = None) -> torch.Tensor:
    return torch.stack([value.square().mean() for value in outputs.values()]).sum()


def difference(name: str) -> float:
    """The largest difference between gradients, and between losses."""
    inputs = inputs_of(name)
    whole = graphmodel.compile(CASES[name], seed=0).double()
    expected = []
    for i in range(PARTS):
        part = [[v.chunk(PARTS)[i] for v in x] if isinstance(x, list) else x.chunk(PARTS)[i] for x in inputs]
        loss = loss_of(whole(*part)) / PARTS
        loss.backward()
        expected.append(loss.item())
    split = graphmodel.split_pipeline(graphmodel.compile(CASES[name], seed=0).double(), dist.get_world_size())
    rank, names, losses = dist.get_rank(), [], []

    def named(outputs: dict[str, torch.Tensor], target: Any) -> torch.Tensor:
        names.append(list(outputs))
        return loss_of(outputs)

    schedule = Schedule1F1B(split.stage(rank), n_microbatches=PARTS, loss_fn=split.loss(named))
    if rank == 0:
        schedule.step(*split.arguments(*inputs))
    else:
        schedule.step(target=torch.zeros(8), losses=losses)
        assert names[0] == [key for output in whole.model_graph.outputs.values() for key in output.parts]
    gradients = dict(whole.named_parameters())
    worst = [abs(found.item() / PARTS - loss) for found, loss in zip(losses, expected, strict=False)]
    for key, parameter in split.modules[rank].named_parameters():
        worst.append((parameter.grad - gradients[key].grad).abs().max().item())
    assert max(split.flops) < 0.8 * sum(split.flops)
    return max(worst)


def measure(_: argparse.Namespace) -> dict[str, Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, {name: difference(name) for name in CASES})
    return {name: max(each[name] for each in found) for name in CASES} if dist.get_rank() == 0 else {}


def main(argv: list[str] | None = None) -> None:
    start(parser(steps=1).parse_args(argv), measure)
