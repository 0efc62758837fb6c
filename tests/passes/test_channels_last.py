"""Frozen convolutional trunks run in channels-last format: the same numbers, and the usual strides outside."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.passes._example import example
from graphmodel.passes.channels_last import ChannelsLast
from graphmodel.passes.freeze import Freeze
from graphmodel.passes.set_memory_format import SetMemoryFormat
from tests.passes.conftest import lines

X = torch.randn(3, 3, 64, 64)
PASSES = [("channels_last",), ("channels_last", "fold_batchnorm")]


def both(spec: dict[str, Any], passes: Any = ("channels_last",)) -> tuple[Any, Any]:
    return graphmodel.compile(spec, seed=0, passes=()), graphmodel.compile(spec, seed=0, passes=passes)


def assert_same(result: Any, expected: Any) -> None:
    assert list(result) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=0, atol=1e-5 * float(value.detach().abs().max()))
        assert result[name].stride() == value.stride(), name


@pytest.mark.parametrize("passes", PASSES)
def test_outputs_gradients_and_buffers(small: dict[str, Any], passes: Any) -> None:
    mapping = [{"from": "images.res3", "as": "map"}, {"from": "images.flatten", "head": "head", "as": "logits"}]
    plain, last = both({**small, "trunk": {**small["trunk"], "freeze": True}, "mapping": mapping}, passes)
    for training in (True, False):
        expected, result = plain.train(training)(X), last.train(training)(X)
        assert_same(result, expected)
    gradients = []
    for model in (plain, last):
        model(X)["logits"].square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert_same(gradients[1], gradients[0])
    assert list(last.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), plain.state_dict().values(), strict=True))


def test_the_frozen_beginning_of_a_trunk(small: dict[str, Any]) -> None:
    spec = {**small, "freeze": ["trunk.conv1", "trunk.bn1", "trunk.relu", "trunk.maxpool", "trunk.layer1"]}
    plain, last = both(spec)
    seen: list[torch.Tensor] = []
    last.trunk.layer1.register_forward_hook(lambda _, __, y: seen.append(y))
    last.trunk.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert_same(last.eval()(X), plain.eval()(X))
    inside, outside = seen
    assert inside.is_contiguous(memory_format=torch.channels_last)
    assert outside.is_contiguous()
    assert last.trunk.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert last.trunk.layer2[0].conv1.weight.is_contiguous()


@pytest.mark.slow
def test_copies_slices_loading_and_conversion(small: dict[str, Any]) -> None:
    plain, last = both({**small, "trunk": {**small["trunk"], "freeze": True}}, PASSES[1])
    last.load_state_dict(plain.state_dict(), assign=True)
    for made in (last, copy.deepcopy(last), pickle.loads(pickle.dumps(last)), last.slice(outputs=["head"])):
        assert_same(made(X), plain(X))
    assert_same(last.double()(X.double()), plain.double()(X.double()))


def test_several_inputs(two_inputs: dict[str, Any]) -> None:
    plain, last = both({**two_inputs, "trunk": {**two_inputs["trunk"], "freeze": True}})
    inputs = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    assert_same(last(*inputs), plain(*inputs))


class Viewing(nn.Module):
    """Takes a view of a map that only exists in the usual format."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1, 2)


def test_what_cannot_run_or_gains_nothing_is_left_alone() -> None:
    def notes(trunk: nn.Module | None, freeze: list[str]) -> list[str]:
        graph = Freeze().run(example({"images": {"stage2": None}}, trunk=trunk, freeze=freeze)).graph
        result = ChannelsLast().run(graph)
        assert not result.changed
        return [f"{n.code} {n.message}" for n in result.notes]

    trunk = nn.Sequential()
    trunk.add_module("stage1", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    trunk.add_module("stage2", Viewing())
    (note,) = notes(trunk, ["trunk"])
    assert note.startswith("GM425 not in channels-last format: `trunk` cannot run in it: `trunk.stage2` fails with")
    assert notes(None, ["trunk.conv"]) == [
        "GM426 not in channels-last format: `trunk` has no more than one frozen convolution, so the format has no effect"
    ]
    assert notes(None, []) == []


def test_the_text_before_and_after() -> None:
    graph = Freeze().run(example({"images": {"stage2": None}}, freeze=["trunk"])).graph
    result = ChannelsLast().run(graph)
    assert lines(result.graph, "images_channels_last", "conv", "stage2_contiguous") == [
        "%images_channels_last: N×3×8×8 = op .contiguous(%images, memory_format=torch.channels_last)",
        "%conv: N×4×6×6 = trunk trunk.conv(%images_channels_last) channels_last frozen",
        "%stage2_contiguous: N×4×2×2 = op .contiguous(%stage2)",
    ]
    assert result.summary == "the frozen calls of `trunk` run in channels-last format"


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [[], ["trunk.conv1", "trunk.bn1", "trunk.layer1"]])
def test_the_memory_format_of_a_trunk_that_trains(small: dict[str, Any], freeze: list[str]) -> None:
    mapping = [{"from": "images.res3", "as": "map"}, {"from": "images.flatten", "head": "head", "as": "logits"}]
    spec = {**small, "mapping": mapping, "freeze": freeze}
    plain = graphmodel.compile(spec, seed=0).double()
    trunk = {**small["trunk"], "memory_format": "channels_last"}
    last = graphmodel.compile({**spec, "trunk": trunk}, seed=0).double()
    assert last.trunk.layer4[1].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    gradients = []
    for model in (plain, last):
        model(X.double())["logits"].square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-7, atol=1e-9)
    assert_same(last(X.double()), plain(X.double()))
    assert_same(dict(last.named_buffers()), dict(plain.named_buffers()))
    assert last.model_graph.spec.trunks["trunk"].memory_format == "channels_last"
    assert_same(last.slice(outputs=["map"])(X.double()), {"map": last(X.double())["map"]})


def test_the_memory_format_of_a_transformer_has_no_effect() -> None:
    trunk = nn.Sequential()
    trunk.add_module("stage1", nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(2)))
    settings = {"memory_format": "channels_last"}
    result = SetMemoryFormat().run(example({"images": {"stage1": None}}, trunk=trunk, settings=settings))
    assert not result.changed
    (note,) = result.notes
    assert note.code == "GM426"
    trunk.stage1[1] = nn.Sequential(nn.Conv2d(4, 4, 1), Viewing())
    with pytest.raises(graphmodel.CompileError, match="GM427"):
        SetMemoryFormat().run(example({"images": {"stage1": None}}, trunk=trunk, settings=settings))
