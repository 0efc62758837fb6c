"""`segmentation` is the head of a fully convolutional network, and its scores have the size of the images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import assert_same, built

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 65, 96]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"mask": {"segmentation": {"num_classes": 5, "dropout": 0}}},
    "mapping": {"images": {"res5": "mask"}},
}


class Fcn(nn.Module):
    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.last = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.dropout(self.bn(self.conv(x)).relu(), 0.1, self.training))


def test_it_is_the_head_of_a_fully_convolutional_network() -> None:
    head = built("segmentation", in_channels=12, channels=3, num_classes=5)
    assert_same(head, Fcn(12, 3, 5), (2, 12, 6, 7))


def test_it_has_the_keys_of_torchvisions_head() -> None:
    from torchvision.models.segmentation.fcn import FCNHead

    ours, theirs = built("segmentation", in_channels=12, channels=3, num_classes=5), FCNHead(12, 5)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_scores_have_the_size_of_the_images_whatever_it_is() -> None:
    model = graphmodel.compile(SPEC, seed=0).eval()
    coarse = graphmodel.compile(
        {**SPEC, "heads": {"mask": {"segmentation": {"num_classes": 5, "dropout": 0, "upsample": False}}}}, seed=0
    ).eval()
    coarse.load_state_dict(model.state_dict())
    for size in ((65, 96), (80, 50)):
        x = torch.randn(2, 3, *size, requires_grad=True)
        small = coarse(x)["mask"]
        expected = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        found = model(x)["mask"]
        assert found.shape == (2, 5, *size)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)))


def test_the_result_of_another_head_can_be_resized_to_the_input() -> None:
    spec = {
        **SPEC,
        "heads": {"coarse": {"conv1x1": {"out_channels": 4}}},
        "mapping": [
            {"from": "images.res4", "head": "coarse"},
            {"from": "coarse", "resize": {"size": "input", "mode": "nearest"}, "as": "fine"},
        ],
    }
    x = torch.randn(2, 3, 70, 90)
    found = graphmodel.compile(spec, seed=0).eval()(x)
    assert torch.equal(found["fine"], F.interpolate(found["coarse"], (70, 90), mode="nearest"))


def test_views_of_one_size_have_it() -> None:
    spec = {**SPEC, "inputs": {"images": {"views": [{"count": 2, "shape": [3, 64, 64]}]}}}
    model = graphmodel.compile(spec, seed=0).eval()
    assert model([torch.randn(2, 3, 64, 64)] * 2)["mask"].shape == (4, 5, 64, 64)


def test_views_of_several_sizes_are_refused() -> None:
    views = [{"count": 1, "shape": [3, 64, 64]}, {"count": 1, "shape": [3, 33, 33]}]
    pooled = {"images": {"res5": {"pool": {"adaptive_avg_pool2d": 1}, "head": "mask"}}}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile({**SPEC, "inputs": {"images": {"views": views}}, "mapping": pooled}, device="meta")
    assert [d.code for d in caught.value.diagnostics] == ["GM306"]
    assert "the head `segmentation` resizes its result" in str(caught.value)
    assert "write the size" not in str(caught.value)


def test_a_slice_and_a_saved_model_resize_too(tmp_path: Any) -> None:
    spec = {**SPEC, "heads": {**SPEC["heads"], "label": {"linear": {"out_features": 3}}}}
    spec["mapping"] = {"images": {"res5": "mask", "flatten": "label"}}
    model = graphmodel.compile(spec, seed=0).eval()
    x = torch.randn(2, 3, 65, 96)
    expected = model(x)["mask"]
    assert torch.equal(model.slice(outputs=["mask"])(x)["mask"], expected)
    graphmodel.save(model, tmp_path / "model")
    assert torch.equal(graphmodel.load(tmp_path / "model").eval()(x)["mask"], expected)
