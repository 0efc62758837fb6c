"""Inputs of one shape share passes through a trunk, as far as that is exact."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.diagnostics import CompileError
from graphmodel.passes.per_sample import registered
from tests.passes.conftest import calls

PASSES = ["merge_calls", "batch_inputs"]


def trunk(*layers: nn.Module) -> nn.Module:
    """A trunk of a convolution, some layers, and a pooled vector."""
    named = [("conv", nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())), *((f"s{i}", m) for i, m in enumerate(layers))]
    return nn.Sequential(OrderedDict([*named, ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]))


def spec(**changes: Any) -> dict[str, Any]:
    inputs = {"a": [3, 8, 8], "b": [3, 8, 8]}
    return {"inputs": inputs, "trunk": "resnet", "mapping": {"a": {"flatten": None}, "b": {"flatten": None}}, **changes}


def both(given: nn.Module, **changes: Any) -> tuple[Any, Any]:
    """A model with the pass and the same without it."""
    made = [
        graphmodel.compile(spec(**changes), seed=0, passes=p, trunks={"trunk": copy.deepcopy(given)})
        for p in (PASSES, PASSES[:1])
    ]
    assert list(made[0].state_dict()) == list(made[1].state_dict())
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1]


def assert_equal(models: tuple[Any, Any], *inputs: Any) -> None:
    """Outputs, gradients and buffers agree in both modes."""
    for training in (True, False):
        found = []
        for model in models:
            torch.manual_seed(3)
            model.train(training).zero_grad()
            outputs = model(*inputs)
            loss = sum((o * torch.arange(float(o.numel())).view_as(o)).mean() for o in outputs.values())
            if isinstance(loss, torch.Tensor) and loss.requires_grad:
                loss.backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            found.append({**outputs, **grads, **{f"buffer {n}": b for n, b in model.named_buffers()}})
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 8, 8, generator=generator) for n in sizes]


KEEPS = {
    "convolutions": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4),
    "layer norm": nn.Sequential(nn.Flatten(2), nn.LayerNorm(36), nn.Unflatten(2, (6, 6))),
}


@pytest.mark.parametrize("name", KEEPS)
@pytest.mark.parametrize("sizes", [(2, 3), (1, 1)])
def test_layers_that_keep_samples_apart_run_once(name: str, sizes: tuple[int, int]) -> None:
    models = both(trunk(KEEPS[name]))
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 1
    assert models[0].optimized_graph.summary[-1] == "batch_inputs: 2 passes through `trunk` -> 1 (`a` and `b`)"
    assert_equal(models, *batches(*sizes))


class Across(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "mean":
            return x - x.mean(0)
        if self.how == "flatten":
            return x.flatten(0, 1).softmax(0).view(x.shape)
        if self.how == "roll":
            return x.roll(1, 0)
        if self.how == "size":
            return x / x.shape[0]
        if self.how == "position":
            return x + torch.arange(x.shape[0], device=x.device).view(-1, 1, 1, 1)
        if self.how == "reshape":
            return x.reshape(2, -1).softmax(1).view(x.shape) if x.shape[0] % 2 == 0 else x
        return x + torch.rand_like(x) if self.training else x


REASONS = {
    "mean": "samples",
    "flatten": "across the samples",
    "roll": "",
    "size": "the batch size",
    "position": "the batch size",
    "reshape": "",
    "random": "draws random numbers",
}


@pytest.mark.parametrize("how", REASONS)
def test_what_mixes_the_batch_or_draws_is_not_shared(how: str) -> None:
    models = both(trunk(Across(how)))
    graph = models[0].optimized_graph
    assert len(calls(graph, "trunk.conv")) == 1
    assert len(calls(graph, "trunk.s0")) == 2 or how == "roll"
    assert any(note.code == "GM410" and REASONS[how] in note.message for note in graph.notes) or how == "roll"
    assert_equal(models, *batches(2, 4))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout(0.5)])
def test_training_decides_for_both_modes_and_freezing_lifts_it(layer: nn.Module) -> None:
    models = both(trunk(layer))
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 2
    assert_equal(models, *batches(2, 3))
    frozen = both(trunk(layer), freeze=["trunk.s0"])
    assert len(calls(frozen[0].optimized_graph, "trunk.s0")) == 1
    assert_equal(frozen, *batches(2, 3))


def test_an_input_that_ends_earlier_is_taken_out() -> None:
    mapping = {"a": {"flatten": None}, "b": {"s0": None}}
    models = both(trunk(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1))), mapping=mapping)
    graph = models[0].optimized_graph
    assert [len(calls(graph, f"trunk.{n}")) for n in ("conv", "s0", "s1")] == [1, 1, 1]
    assert_equal(models, *batches(2, 3))
    part = models[0].slice(inputs=["b"])
    torch.testing.assert_close(part(batches(2, 3)[1])["b_s0"], models[1](*batches(2, 3))["b_s0"])
    assert list(part.optimized_graph.inputs) == ["b"]


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x).abs()


def test_unknown_operations_are_not_shared_until_their_module_is_registered() -> None:
    models = both(trunk(nn.Sequential(Spectrum())))
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 2
    assert "not known to keep samples apart" in models[0].optimized_graph.notes[0].message
    graphmodel.register_per_sample(Spectrum)
    try:
        models = both(trunk(nn.Sequential(Spectrum())))
        assert len(calls(models[0].optimized_graph, "trunk.s0")) == 1
        assert_equal(models, *batches(2, 3))
    finally:
        del registered[Spectrum]


def test_views_with_a_pass_each_join_other_inputs_and_feed_one_head() -> None:
    inputs = {"crops": {"views": [{"count": 3, "shape": [3, 8, 8]}], "grouping": "crop"}, "b": [3, 8, 8]}
    heads = {"h": {"mlp": {"dims": ["auto", 4]}}}
    mapping = {"crops": {"flatten": "h"}, "b": {"flatten": "h"}}
    models = both(trunk(nn.GroupNorm(2, 4)), inputs=inputs, heads=heads, mapping=mapping)
    assert len(calls(models[0].optimized_graph, "trunk.conv")) == 1
    assert len(calls(models[0].optimized_graph, "heads.h")) == 1
    assert_equal(models, batches(2, 2, 2), batches(3)[0])


def test_sizes_that_differ_are_an_error_that_names_the_inputs() -> None:
    model, _ = both(trunk(nn.GroupNorm(2, 4)))
    with pytest.raises(CompileError, match=r"`b` is 2×3×9×9 and the input `a` is 2×3×8×8"):
        model(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 9, 9))


def test_many_shared_heads_are_told_in_a_short_line() -> None:
    names = [f"h{i}" for i in range(9)]
    heads = {name: {"linear": {"out_features": 2}} for name in names}
    mapping = {name: {"flatten": names} for name in ("a", "b")}
    document = {**spec(), "heads": heads, "mapping": mapping, "optimize": ["batch_inputs"]}
    model = graphmodel.compile(document, trunks={"trunk": trunk(nn.GroupNorm(2, 4))}, device="meta")
    line = model.optimized_graph.summary[-1]
    assert line.endswith("2 calls of `heads.h1` -> 1 (`h1_a` and `h1_b`); and 7 more")


def test_checkpoint_copies_and_export() -> None:
    models = both(trunk(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU())), checkpoint=2)
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 1
    assert_equal(models, *batches(2, 3))
    assert_equal((copy.deepcopy(models[0]), models[1]), *batches(2, 3))


@pytest.mark.slow
def test_compile_and_export_with_a_batch_of_each_input() -> None:
    model, plain = both(trunk(nn.GroupNorm(2, 4)))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batches(2, 3)), plain(*batches(2, 3)))
    dims = ({0: torch.export.Dim("n")}, {0: torch.export.Dim("m")})
    program = torch.export.export(model.eval(), tuple(batches(2, 3)), dynamic_shapes=dims)
    torch.testing.assert_close(program.module()(*batches(4, 5)), plain.eval()(*batches(4, 5)))
