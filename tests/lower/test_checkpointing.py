"""Activation checkpointing changes memory, nothing else."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch

import graphmodel

X = torch.randn(4, 3, 64, 64)


def test_gradients_and_statistics_are_those_of_the_plain_model(small: dict[str, Any]) -> None:
    plain = graphmodel.compile(small, seed=0)
    model = graphmodel.compile({**small, "checkpoint": True}, seed=0)
    for each in (plain, model):
        each(X)["head"].sum().backward()
    for (name, p), (other, q) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad), name
    # Non-reentrant checkpointing alone would move the statistics twice.
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), model.buffers(), strict=True))
    assert int(model.trunk.layer1[0].bn1.num_batches_tracked) == 1


def test_fewer_tensors_are_kept_for_the_backward_pass(small: dict[str, Any]) -> None:
    def kept(model: torch.nn.Module) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(X)
        return sum(sizes)

    assert kept(graphmodel.compile({**small, "checkpoint": True}, seed=0)) < 0.6 * kept(
        graphmodel.compile(small, seed=0)
    )


def test_copies_recompute_their_own_stages(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "checkpoint": True}, seed=0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.trunk.layer1.forward.module is other.trunk.layer1


def test_it_compiles_into_one_graph(small: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = graphmodel.compile({**small, "checkpoint": True}, seed=0)
    torch.compile(model, fullgraph=True, backend="aot_eager")(X)["head"].sum().backward()
    assert model.trunk.conv1.weight.grad is not None


def test_frozen_stages_are_left_alone(small: dict[str, Any]) -> None:
    spec = graphmodel.load_spec({**small, "checkpoint": True, "freeze": ["trunk.layer1"]})
    graph = graphmodel.build_graph(spec)
    assert {n.name for n in graph.nodes.values() if n.facts.checkpoint} == {"layer2", "layer3", "layer4"}
