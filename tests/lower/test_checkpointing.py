"""Activation checkpointing changes memory, nothing else."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel

X = torch.randn(4, 3, 64, 64)
SEGMENTS = [1, 2, 7, True]


def runs_of(model: nn.Module, names: list[str]) -> dict[str, int]:
    """How often each module runs in one forward and backward."""
    runs = dict.fromkeys(names, 0)

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            runs[name] += 1

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(count(name)) for name in names]
    model(X)["head"].sum().backward()
    for handle in handles:
        handle.remove()
    return runs


def kept(model: nn.Module) -> int:
    """Numbers that autograd keeps for the backward pass."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        model(X)
    return sum(sizes)


@pytest.mark.parametrize("segments", SEGMENTS)
def test_gradients_statistics_keys_and_outputs_are_those_of_the_plain_model(
    small: dict[str, Any], segments: Any
) -> None:
    small = {**small, "mapping": {"images": {"res3": None, "res5": None, "flatten": "head"}}}
    plain = graphmodel.compile(small, seed=0)
    model = graphmodel.compile({**small, "checkpoint": segments}, seed=0)
    results = []
    for each in (plain, model):
        out = each(X)
        results.append(out)
        (out["head"].sum() + out["res3"].pow(2).mean() + out["res5"].pow(2).mean()).backward()
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert list(plain.state_dict()) == list(model.state_dict())
    for (name, p), (other, q) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad), name
    # Non-reentrant checkpointing alone would move the statistics twice.
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), model.buffers(), strict=True))
    assert int(model.trunk.layer1[0].bn1.num_batches_tracked) == 1


@pytest.mark.parametrize("segments", SEGMENTS)
def test_every_stage_is_recomputed_once(small: dict[str, Any], segments: Any) -> None:
    names = ["trunk.conv1", *(f"trunk.layer{i}" for i in (1, 2, 3, 4)), "heads.head"]
    runs = runs_of(graphmodel.compile({**small, "checkpoint": segments}, seed=0), names)
    assert runs == {**dict.fromkeys(names, 2), "heads.head": 1}
    assert set(runs_of(graphmodel.compile(small, seed=0), names).values()) == {1}


def test_fewer_segments_keep_less_between_forward_and_backward(small: dict[str, Any]) -> None:
    sizes = {n: kept(graphmodel.compile({**small, "checkpoint": n}, seed=0)) for n in (1, 2, 4, 7, True)}
    # The frontier of a segment is held by checkpointing itself, not by autograd's saved tensors.
    assert sizes[4] == sizes[7] == sizes[True]
    assert max(sizes.values()) < 0.5 * kept(graphmodel.compile(small, seed=0))


def test_a_recomputation_is_as_large_as_its_segment(small: dict[str, Any]) -> None:
    """The first recomputation of the backward pass runs the last segment alone."""

    def first_recomputed(segments: Any) -> list[str]:
        model = graphmodel.compile({**small, "checkpoint": segments}, seed=0)
        order: list[str] = []
        for i in (1, 2, 3, 4):
            stage = model.get_submodule(f"trunk.layer{i}")
            stage.register_forward_pre_hook(lambda *_, i=i: order.append(f"layer{i}"))
        model(X)["head"].sum().backward()
        return order[4:]

    assert first_recomputed(1) == ["layer1", "layer2", "layer3", "layer4"]
    assert first_recomputed(2) == ["layer3", "layer4", "layer1", "layer2"]
    assert first_recomputed(7) == ["layer4", "layer3", "layer2", "layer1"]


def test_nothing_is_recomputed_in_eval_mode(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "checkpoint": 2}, seed=0).eval()
    assert set(runs_of(model, ["trunk.layer1", "trunk.layer4"]).values()) == {1}


def test_copies_and_slices_recompute_too(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "checkpoint": 2}, seed=0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.slice(outputs=["head"])):
        assert other.code == model.code
        assert runs_of(other, ["trunk.layer1"]) == {"trunk.layer1": 2}


def test_the_code_shows_the_segments(small: dict[str, Any]) -> None:
    code = graphmodel.compile({**small, "checkpoint": 2}, device="meta").code
    assert "    def images_segment2(layer2):\n        layer3 = trunk.layer3(layer2)\n" in code
    assert "layer2 = recompute(images_segment1, (trunk.conv1, trunk.bn1, " in code


def test_two_inputs_that_share_a_trunk_have_the_plain_models_gradients(two_inputs: dict[str, Any]) -> None:
    patches = torch.randn(36, 3, 32, 32)
    grads = []
    for checkpoint in (0, 3):
        model = graphmodel.compile({**two_inputs, "checkpoint": checkpoint}, seed=0)
        out = model(X, patches)
        (out["image"].sum() + out["jigsaw"].sum()).backward()
        grads.append([p.grad for p in model.parameters()] + list(model.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("segments", SEGMENTS)
def test_it_compiles_into_one_graph(small: dict[str, Any], segments: Any) -> None:
    torch._dynamo.reset()
    model = graphmodel.compile({**small, "checkpoint": segments}, seed=0)
    plain = graphmodel.compile(small, seed=0)
    torch.compile(model, fullgraph=True, backend="aot_eager")(X)["head"].sum().backward()
    plain(X)["head"].sum().backward()
    assert int(model.trunk.layer1[0].bn1.num_batches_tracked) == 1
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_vision_transformer_recomputes_its_blocks() -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32}}
    x = torch.randn(2, 3, 32, 32)
    results = []
    for checkpoint in (0, 5):
        model = graphmodel.compile({**spec, "checkpoint": checkpoint}, seed=0, returns="tensor")
        model(x).sum().backward()
        results.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    sizes = [n.facts.checkpoint for n in model.model_graph.nodes.values() if ".blocks." in str(n.target)]
    assert sizes == [1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5]
