from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, disturb, params_of, read, shapes

TINY = {"depth": [3, 3, 9, 3]}
SMALL = {"depth": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}


def authors_key(key: str) -> str:
    """timm's key in the authors' own repository, which VISSL's copy keeps."""
    key = re.sub(r"^stem\.", "downsample_layers.0.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
    key = key.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return re.sub(r"^head\.norm\.", "norm.", key)


def test_weights_are_what_timm_draws_under_the_seed() -> None:
    ours = build("convnext", **TINY)
    torch.manual_seed(0)
    assert_same_state(ours, timm.create_model("convnext_tiny"))


@pytest.mark.slow
def test_features_are_the_values_inside_timms_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    reference = timm.create_model("convnext_tiny").eval()
    with torch.no_grad():
        last, stages = reference.forward_intermediates(x)
        wanted = [*stages, reference.forward_head(last, pre_logits=True)]
    found = read("convnext", ["stage1", "stage2", "res4", "res5", "lastCLS"], x, **TINY)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want)


def test_the_default_feature_is_the_normalised_vector() -> None:
    x = torch.randn(2, 3, 64, 64)
    spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "convnext", **SMALL}}
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    with torch.no_grad():
        vector = model(x)
    assert vector.shape == (2, 32)
    torch.testing.assert_close(vector.mean(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_numbers_are_those_of_torchvisions_convnext() -> None:
    ours = disturb(build("convnext", **TINY)).eval()
    theirs = torchvision.models.convnext_tiny().eval()
    mine = [v for k, v in ours.state_dict().items() if not k.startswith("head.fc")]
    other = [v for k, v in theirs.state_dict().items() if not k.startswith("classifier.2")]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for value, target in zip(mine, other, strict=True):  # the same order, other names
            target.copy_(value.view_as(target))
        wanted = theirs.classifier[0](theirs.avgpool(theirs.features(x))).flatten(1)
        found = ours.forward_head(ours.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    model = build("convnext", drop_path_rate=0.4, **SMALL)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_a_lab_trunk_reads_one_channel() -> None:
    assert isinstance(build("convnext", "lab", **SMALL).stem[0], nn.Conv2d)
    assert build("convnext", "lab", **SMALL).stem[0].in_channels == 1


def test_vissl_keys_name_the_same_tensors() -> None:
    family, params = find_trunk("convnext"), params_of("convnext", **SMALL)
    assert family is not None
    for key in shapes("convnext", **SMALL):
        if not key.startswith("head.fc"):
            assert family.from_vissl_key(authors_key(key), params) == key


@pytest.mark.parametrize("params", [{"depth": [3, 3, 9]}, {"dims": [96, 192, 384, 768, 1536]}, {"drop_path_rate": 1.5}])
def test_what_is_no_convnext_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        read("convnext", ["lastCLS"], torch.zeros(1, 3, 64, 64), **params)
    assert next(iter(params)) in str(caught.value)
