from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import graphmodel
from graphmodel.components.heads.mobilenet_v3_head import MobileNetV3Head, MobileNetV3HeadParams, MobileNetV3HeadTimm

BOTH = pytest.mark.parametrize("head", [MobileNetV3Head, MobileNetV3HeadTimm])


def params(**values: Any) -> MobileNetV3HeadParams:
    return MobileNetV3HeadParams(**{"in_channels": 24, "mid_channels": 16, "num_classes": 5, **values})


def test_it_is_the_classifier_of_torchvisions_mobilenet() -> None:
    theirs = torchvision.models.mobilenet_v3_large().classifier.eval()
    ours = MobileNetV3Head(params(in_channels=960, mid_channels=1280, num_classes=1000)).eval()
    ours.classifier.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 960)
    torch.testing.assert_close(ours(x), theirs(x))


def test_both_forms_compute_the_same() -> None:
    linear, timm = MobileNetV3Head(params()).eval(), MobileNetV3HeadTimm(params()).eval()
    state = {k.replace("classifier.3", "classifier.4"): v for k, v in linear.state_dict().items()}
    state["classifier.0.weight"] = state["classifier.0.weight"][:, :, None, None]
    timm.load_state_dict(state)
    x = torch.randn(3, 24)
    torch.testing.assert_close(timm(x), linear(x))


@BOTH
def test_vectors_and_maps_of_one_pixel_are_the_same(head: Any) -> None:
    module = head(params(with_bn=True)).eval()
    x = torch.randn(3, 24)
    torch.testing.assert_close(module(x), module(x[:, :, None, None]))


@BOTH
def test_batch_norm_comes_first_where_it_is_asked_for(head: Any) -> None:
    module = head(params(with_bn=True, bn_eps=1e-3, bn_momentum=0.3)).train()
    plain = head(params()).eval()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("channel_bn")})
    x = torch.randn(8, 24) * 3 + 1
    normalised = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-3).sqrt()
    module.classifier.eval()
    torch.testing.assert_close(module(x), plain(normalised), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.channel_bn.running_mean, 0.3 * x.mean(0))


@BOTH
def test_initial_linear_weights_are_scaled(head: Any) -> None:
    torch.manual_seed(0)
    plain = head(params())
    torch.manual_seed(0)
    scaled = head(params(init_scale=0.5))
    last = [m for m in plain.modules() if isinstance(m, nn.Linear)][-1]
    half = [m for m in scaled.modules() if isinstance(m, nn.Linear)][-1]
    torch.testing.assert_close(half.weight, last.weight * 0.5)


@BOTH
def test_dropout_acts_in_training_alone(head: Any) -> None:
    module = head(params(drop_out=0.9))
    x = torch.randn(4, 24)
    assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


def spec(**head: Any) -> dict[str, Any]:
    return {
        "inputs": {"images": [3, 32, 32]},
        "trunk": "mobilenetv3_tv",
        "heads": {"head": {"mobilenet_v3_head": {"num_classes": 7, **head}}},
    }


def test_the_width_is_read_off_the_feature() -> None:
    model = graphmodel.compile(spec(), seed=0, returns="tensor").eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert model.state_dict()["heads.head.classifier.0.weight"].shape == (1280, 960)


def test_a_width_that_disagrees_is_refused_with_both_numbers() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec(in_channels=1280), seed=0)
    assert "1280" in str(caught.value)
    assert "960" in str(caught.value)
