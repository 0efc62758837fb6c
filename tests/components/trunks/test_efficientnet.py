from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from timm.models._efficientnet_builder import round_channels
from torch import nn
from torchvision.models.efficientnet import MBConv
from torchvision.models.feature_extraction import create_feature_extractor

import graphmodel
from graphmodel.components.construct import build_on_meta
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read, shapes

VERSIONS = ["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"]


def library(version: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(f"efficientnet_{version.lower()}", weights=None)
    return model


@pytest.mark.parametrize("version", ["B0", "B2"])
def test_weights_are_what_torchvision_draws_under_the_seed(version: str) -> None:
    assert_same_state(build("efficientnet", model_version=version), library(version))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_versions_have_torchvisions_tensors_and_dropout(version: str) -> None:
    theirs = build_on_meta(lambda: library(version))
    assert shapes("efficientnet", model_version=version) == {k: tuple(t.shape) for k, t in theirs.state_dict().items()}
    family = find_trunk("efficientnet")
    assert family is not None
    ours = build_on_meta(lambda: family.build(params_of("efficientnet", model_version=version), "rgb"))
    assert ours.classifier[0].p == theirs.classifier[0].p


def test_the_version_may_be_written_as_the_librarys_name() -> None:
    assert params_of("efficientnet", model_version="efficientnet_b3").model_version == "B3"


def test_features_are_the_values_inside_torchvisions_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = library("B1")
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # as in the paper's code; torchvision's B1 has PyTorch's
    blocks = [path for path, m in reference.named_modules() if isinstance(m, MBConv)]
    names = {"features.0": "conv1", **{path: f"block{i}" for i, path in enumerate(blocks)}, "features.8": "conv_final"}
    names |= {"avgpool": "avgpool", "flatten": "flatten", "classifier.0": "dropout"}
    with torch.no_grad():
        wanted = create_feature_extractor(reference.eval(), names)(x)
    for name, value in zip(wanted, read("efficientnet", list(wanted), x, model_version="B1"), strict=True):
        torch.testing.assert_close(value, wanted[name])
    assert len(blocks) == 23


def test_stages_end_at_strides_4_8_16_and_32() -> None:
    maps = read("efficientnet", ["stage1", "stage2", "stage3", "stage4"], torch.randn(1, 3, 64, 64), model_version="B0")
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]


def test_dropout_leaves_the_vector_that_it_reads_alone() -> None:
    model = compiled("efficientnet", ["flatten", "dropout", "avgpool"], (3, 32, 32), model_version="B0").train()
    vector, dropped, pooled = model(torch.randn(4, 3, 32, 32))
    assert torch.equal(vector, pooled.flatten(1))
    assert ((dropped == 0) & (vector != 0)).any()


def test_stochastic_depth_grows_from_block_to_block() -> None:
    model = build("efficientnet", model_version="B0", drop_connect_rate=0.4)
    rates = [m.stochastic_depth.p for m in model.modules() if isinstance(m, MBConv)]
    assert rates == pytest.approx([0.4 * i / 16 for i in range(16)])


def test_batch_norm_has_the_epsilon_and_momentum_asked_for() -> None:
    model = build("efficientnet", model_version="B0", bn_epsilon=1e-2, bn_momentum=0.3)
    assert {(n.eps, n.momentum) for n in model.modules() if isinstance(n, nn.BatchNorm2d)} == {(1e-2, 0.3)}


def test_without_squeeze_and_excitation_the_rest_is_the_same() -> None:
    ours = disturb(build("efficientnet", model_version="B0", use_se=False, bn_epsilon=1e-5)).eval()
    reference = library("B0").eval()
    for module in reference.modules():
        if isinstance(module, MBConv):
            module.block[-2] = nn.Identity()
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.features(x), reference.features(x))


@pytest.mark.parametrize(
    ("version", "options"), [("B2", {"width_divisor": 4}), ("B3", {"width_divisor": 16, "min_width": 48})]
)
def test_widths_are_rounded_as_asked(version: str, options: dict[str, int]) -> None:
    scale = {"B2": 1.1, "B3": 1.2}[version]
    found = shapes("efficientnet", model_version=version, **options)

    def rounded(width: int) -> int:
        return int(round_channels(width, scale, options["width_divisor"], options.get("min_width")))

    assert found["features.0.0.weight"][0] == rounded(32)
    assert [found[f"features.{s}.0.block.3.0.weight"][0] for s in range(2, 8)] == [
        rounded(w) for w in (24, 40, 80, 112, 192, 320)
    ]
    assert found["features.3.0.block.0.0.weight"][:2] == (6 * rounded(24), rounded(24))
    assert found["features.8.0.weight"][0] == rounded(1280)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.1.running_mean", "features.0.1.running_mean"),
        ("block0.depthwise_conv.weight", "features.1.0.block.0.0.weight"),
        ("block1.se_reduce.bias", "features.1.1.block.1.fc1.bias"),
        ("block1.project_conv.weight", "features.1.1.block.2.0.weight"),
        ("block2.expand_conv.weight", "features.2.0.block.0.0.weight"),
        ("block4.bn0.weight", "features.2.2.block.0.1.weight"),
        ("block22.depthwise_conv.weight", "features.7.1.block.1.0.weight"),
        ("block22.bn1.bias", "features.7.1.block.1.1.bias"),
        ("block22.se_expand.weight", "features.7.1.block.2.fc2.weight"),
        ("block22.bn2.bias", "features.7.1.block.3.1.bias"),
        ("conv_final.0.weight", "features.8.0.weight"),
    ],
)
def test_vissl_keys_name_the_same_tensors(theirs: str, ours: str) -> None:
    family, params = find_trunk("efficientnet"), params_of("efficientnet", model_version="B1")
    assert family is not None
    assert family.from_vissl_key(f"_feature_blocks.{theirs}", params) == ours
    assert ours in shapes("efficientnet", model_version="B1")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "`model_version`"),
        ({"model_version": "B8"}, "B7"),
        ({"model_version": "B0", "input_type": "lab"}, "takes three channels"),
    ],
)
def test_what_is_no_efficientnet_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        read("efficientnet", ["flatten"], torch.zeros(1, 3, 32, 32), **params)
    assert message in str(caught.value)
