"""A module for inference gives the same results with fewer layers, and leaves the module it came from alone."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel

X = torch.randn(4, 3, 64, 64)


def with_statistics(model: nn.Module) -> Any:
    """The model with statistics that matter, in eval mode."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(name.endswith("running_var") for name in model.state_dict())


def assert_same(result: Any, expected: Any) -> None:
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert not result[name].requires_grad
        assert result[name].stride() == value.stride()
        torch.testing.assert_close(result[name], value, rtol=0, atol=1e-5 * float(value.detach().abs().max()))


@pytest.mark.parametrize(
    ("trunk", "left"),
    [
        ({"name": "resnet", "depth": 18, "width_multiplier": 0.25}, 0),
        ({"name": "alexnet_deepcluster"}, 0),
        pytest.param({"name": "timm:efficientnet_b0"}, 0, marks=pytest.mark.slow),
        pytest.param({"name": "timm:tf_efficientnet_b0"}, 0, marks=pytest.mark.slow),
        pytest.param({"name": "timm:regnety_002"}, 0, marks=pytest.mark.slow),
        pytest.param({"name": "torchvision:mobilenet_v3_small"}, 0, marks=pytest.mark.slow),
        pytest.param({"name": "torchvision:densenet121"}, 62, marks=pytest.mark.slow),
        pytest.param({"name": "timm:vit_tiny_patch16_224"}, 0, marks=pytest.mark.slow),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_trunk_gives_the_same_results(trunk: dict[str, Any], left: int) -> None:
    size = 224 if "224" in trunk["name"] or "alexnet" in trunk["name"] else 64
    spec: dict[str, Any] = {
        "inputs": {"images": [3, size, size]},
        "trunk": trunk,
        "heads": {"head": {"mlp": {"dims": ["auto", 8, 4], "use_bn": True}}},
        "mapping": {"images": {"flatten": {"flatten": True, "heads": ["head"]}}},
    }
    model = with_statistics(graphmodel.compile(spec, seed=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    fast = graphmodel.optimize_for_inference(model)
    x = torch.randn(3, 3, size, size)
    assert_same(fast(x), model(x))
    assert norms(fast) == left
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert trained == [name for name, parameter in model.named_parameters() if parameter.requires_grad]


class Odd(nn.Module):
    """Layers that can be folded beside ones that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        self.shared, self.first, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.up, self.up_norm = nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.BatchNorm2d(4)
        self.linear, self.tokens = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.before(x))
        x = self.second(self.shared(self.first(self.shared(x))))
        x = self.up_norm(self.up(x))
        # As many tokens as channels: BatchNorm takes the second dimension, the linear layer made the third.
        return self.tokens(self.linear(x.mean(3).transpose(1, 2)[:, :4]))


def test_what_cannot_be_folded_is_kept() -> None:
    spec = {"inputs": {"images": [3, 4, 4]}, "trunk": "resnet", "mapping": {"images": {"odd": None}}}
    trunk = nn.Sequential(OrderedDict(odd=Odd()))
    model = with_statistics(graphmodel.compile(spec, trunks={"trunk": trunk}))
    fast = graphmodel.optimize_for_inference(model)
    x = torch.randn(2, 3, 4, 4)
    assert_same(fast(x), model(x))
    kept = {name.split(".")[-2] for name in fast.state_dict() if name.endswith("running_var")}
    assert kept == {"before", "first", "second", "tokens"}


def test_several_inputs_views_and_passes(two_inputs: dict[str, Any]) -> None:
    spec = {**two_inputs, "trunk": {**two_inputs["trunk"], "freeze": True}}
    model = with_statistics(graphmodel.compile(spec, seed=0, passes=["fold_batchnorm", "channels_last"]))
    fast = graphmodel.optimize_for_inference(model)
    inputs = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    assert_same(fast(*inputs), model(*inputs))
    assert norms(fast) == 0


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", None])
def test_the_memory_format_is_given_or_measured(small: dict[str, Any], memory_format: Any) -> None:
    mapping = [{"from": "images.res3", "as": "map"}, {"from": "images.flatten", "head": "head", "as": "logits"}]
    model = with_statistics(graphmodel.compile({**small, "mapping": mapping}, seed=0))
    fast = graphmodel.optimize_for_inference(model, X, memory_format=memory_format)
    assert_same(fast(X), model(X))
    if memory_format:
        formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        assert fast.trunk.layer1[0].conv1.weight.is_contiguous(memory_format=formats[memory_format])


@pytest.mark.slow
def test_half_precision(small: dict[str, Any]) -> None:
    model = with_statistics(graphmodel.compile(small, seed=0)).bfloat16()
    fast = graphmodel.optimize_for_inference(model)
    result, expected = fast(X.bfloat16())["head"], model(X.bfloat16())["head"]
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-2 * float(expected.detach().abs().max()))


def test_copies_and_pickles_stay_modules_for_inference(small: dict[str, Any]) -> None:
    fast = graphmodel.optimize_for_inference(with_statistics(graphmodel.compile(small, seed=0)))
    for made in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert isinstance(made, graphmodel.InferenceModel)
        assert torch.equal(made(X)["head"], fast(X)["head"])
        with pytest.raises(graphmodel.CompileError, match="GM560"):
            made.train()


def test_frozen_features_can_be_optimized(small: dict[str, Any]) -> None:
    model = with_statistics(graphmodel.compile({**small, "trunk": {**small["trunk"], "freeze": True}}, seed=0))
    features, heads = graphmodel.split_frozen(model)
    stored = graphmodel.optimize_for_inference(features)(X)
    torch.testing.assert_close(heads(**stored)["head"], model(X)["head"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_inductor_with_freezing(small: dict[str, Any]) -> None:
    model = with_statistics(graphmodel.compile(small, seed=0))
    fast = graphmodel.optimize_for_inference(model, compile=True)
    assert_same(fast(X), {name: value.detach() for name, value in model(X).items()})


def test_errors(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0)
    fast = graphmodel.optimize_for_inference(model)
    assert fast.eval() is fast
    for call, code in (
        (lambda: fast.train(), "GM560"),
        (lambda: fast.slice(outputs=["head"]), "GM561"),
        (lambda: graphmodel.optimize_for_inference(model, (X, X)), "GM562"),
        (lambda: graphmodel.optimize_for_inference(model, X[:, :2]), "GM562"),
        (lambda: graphmodel.optimize_for_inference(fast), "GM562.*one for inference already"),
        (lambda: graphmodel.save(fast, "out"), "GM561"),
        (lambda: graphmodel.split_frozen(fast), "GM561"),
        (lambda: graphmodel.split_pipeline(fast, 2), "GM561"),
        (lambda: graphmodel.shard_plan(fast), "GM561"),
        (lambda: graphmodel.load_weights(fast, model.state_dict()), "GM561"),
        (lambda: graphmodel.export_weights(fast, "torchvision"), "GM561"),
        (lambda: graphmodel.materialise(fast), "GM561"),
    ):
        with pytest.raises(graphmodel.CompileError, match=code):
            call()
