from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.reference import NarrowResNet
from tests.trunk_helpers import assert_same_state, build, disturb, params_of, read, shapes

STAGES = {"relu": "conv1", "maxpool": "res1", "layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}


def library(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_weights_are_what_torchvision_draws_under_the_seed(depth: int) -> None:
    assert_same_state(build("resnet", depth=depth), library(f"resnet{depth}"))


def test_weights_of_a_resnext_are_what_torchvision_draws_under_the_seed() -> None:
    assert_same_state(build("resnet", groups=32, width_per_group=4), library("resnext50_32x4d"))


def test_zero_init_residual_is_torchvisions() -> None:
    ours = build("resnet", zero_init_residual=True)
    assert_same_state(ours, library("resnet50", zero_init_residual=True))
    assert not ours.layer3[2].bn3.weight.any()


@pytest.mark.parametrize(
    ("norm", "layer"),
    [
        ({"norm": "LayerNorm"}, partial(nn.GroupNorm, 1)),
        ({"norm": "GroupNorm"}, partial(nn.GroupNorm, 32)),
        ({"norm": "GroupNorm", "groupnorm_groups": 16}, partial(nn.GroupNorm, 16)),
    ],
)
def test_norm_replaces_every_batch_norm(norm: dict[str, Any], layer: Any) -> None:
    ours, theirs = disturb(build("resnet", **norm)), disturb(library("resnet50", norm_layer=layer))
    assert_same_state(ours, theirs)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_fraction_of_the_width_is_torchvisions_network_that_much_narrower() -> None:
    torch.manual_seed(0)
    theirs = NarrowResNet()
    ours = build("resnet", depth=18, width_multiplier=0.25)
    assert_same_state(ours, theirs)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("multiplier", [2, 4])
def test_width_multiplier_widens_everything_but_the_image_and_the_classes(multiplier: int) -> None:
    narrow = {key: tuple(t.shape) for key, t in library("resnet50").state_dict().items()}
    wide = shapes("resnet", width_multiplier=multiplier)

    def widened(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        fixed = {"conv1.weight": (1,), "fc.weight": (0,), "fc.bias": (0,)}.get(key, ())
        return tuple(d * multiplier if i < 2 and i not in fixed else d for i, d in enumerate(shape))

    assert wide == {key: widened(key, shape) for key, shape in narrow.items()}


def test_layer4_stride_1_keeps_the_resolution_and_the_weights() -> None:
    theirs = library("resnet50")
    theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    x = torch.randn(2, 3, 64, 64)
    reference = create_feature_extractor(theirs, ["layer3", "layer4"]).eval()
    with torch.no_grad():
        wanted = reference(x)
    res4, res5 = read("resnet", ["res4", "res5"], x, layer4_stride=1)
    assert res5.shape == (2, 2048, *res4.shape[2:])
    torch.testing.assert_close(res5, wanted["layer4"])


def test_standardized_convolutions_have_kernels_of_zero_mean_and_unit_deviation() -> None:
    ours, plain = build("resnet", depth=18, standardize_convolutions=True), library("resnet18")
    assert_same_state(ours, plain)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.Conv2d):
                kernels = module.weight.flatten(1).double()
                kernels = (kernels - kernels.mean(1, keepdim=True)) / (kernels.std(1, keepdim=True) + 1e-5)
                module.weight.copy_(kernels.view_as(module.weight))
        x = torch.randn(4, 3, 64, 64)  # training, where BatchNorm keeps the values in bounds
        torch.testing.assert_close(ours.train()(x), plain.train()(x), rtol=1e-3, atol=1e-3)


def test_lab_reads_the_luminance_alone() -> None:
    x = torch.randn(2, 3, 64, 64)
    (seen,) = read("resnet", ["res2"], x, depth=18, input_type="lab")
    (other,) = read("resnet", ["res2"], torch.cat([x[:, :1], torch.randn(2, 2, 64, 64)], 1), depth=18, input_type="lab")
    torch.testing.assert_close(seen, other)
    assert build("resnet", "lab", depth=18).conv1.weight.shape == (64, 1, 7, 7)


def test_bgr_reads_the_channels_reversed() -> None:
    x = torch.randn(2, 3, 64, 64)
    (rgb,) = read("resnet", ["res3"], x, depth=18)
    (bgr,) = read("resnet", ["res3"], x.flip(1), depth=18, input_type="bgr")
    torch.testing.assert_close(rgb, bgr)


def test_features_are_the_values_inside_torchvisions_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = create_feature_extractor(library("resnet18"), {**STAGES, "avgpool": "res5avg", "flatten": "flatten"})
    with torch.no_grad():
        wanted = reference.eval()(x)
    for name, value in zip(wanted, read("resnet", list(wanted), x, depth=18), strict=True):
        torch.testing.assert_close(value, wanted[name])


def test_stages_have_the_names_of_all_pyramids() -> None:
    x = torch.randn(2, 3, 64, 64)
    by_stage = read("resnet", ["stage1", "stage2", "stage3", "stage4", "pre_logits"], x, depth=18)
    by_name = read("resnet", ["res2", "res3", "res4", "res5", "flatten"], x, depth=18)
    assert all(torch.equal(a, b) for a, b in zip(by_stage, by_name, strict=True))


def test_vissl_keys_are_torchvisions_under_a_prefix() -> None:
    family, params = find_trunk("resnet"), params_of("resnet")
    assert family is not None
    for key in library("resnet50").state_dict():
        assert family.from_vissl_key(f"_feature_blocks.{key}", params) == key


def test_a_shallow_resnext_is_refused_where_it_is_written() -> None:
    with pytest.raises(graphmodel.CompileError, match="BasicBlock only supports") as caught:
        read("resnet", ["flatten"], torch.zeros(1, 3, 64, 64), depth=18, groups=32)
    assert caught.value.diagnostics[0].code == "GM302"


def test_images_of_other_channels_are_read_with_in_chans() -> None:
    for channels in (1, 4):
        (seen,) = read("resnet", ["res2"], torch.randn(2, channels, 64, 64), depth=18, in_chans=channels)
        assert seen.shape == (2, 64, 16, 16)
    assert build("resnet", depth=18, in_chans=1).conv1.weight.shape == (64, 1, 7, 7)


def test_channels_that_do_not_fit_point_to_in_chans() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        read("resnet", ["res2"], torch.zeros(1, 1, 64, 64), depth=18)
    (finding,) = caught.value.diagnostics
    assert finding.help == "write `in_chans: 1`"
    with pytest.raises(graphmodel.CompileError, match="gives 1 channels, not 3"):
        read("resnet", ["res2"], torch.zeros(1, 3, 64, 64), depth=18, in_chans=3, input_type="lab")


@pytest.mark.slow
def test_wide_and_strided_resnets_have_torchvisions_shapes() -> None:
    ours, theirs = build("resnet", depth=50, width_multiplier=2), torchvision.models.resnet50()
    wide = {k: v.shape for k, v in ours.state_dict().items()}
    assert list(wide) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        expected = [2 * d if i < 2 and d not in (3, 1000) and value.dim() > 0 else d for i, d in enumerate(value.shape)]
        assert list(wide[key]) == expected, key


def test_a_width_that_is_not_whole_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(graphmodel.CompileError) as error:
        read("resnet", ["res2"], torch.zeros(1, 3, 64, 64), depth=18, width_multiplier=0.3)
    (finding,) = error.value.diagnostics
    assert (finding.code, finding.message) == ("GM201", "`width_multiplier: 0.3` gives 19.2 channels")
    assert finding.help == "0.296875 gives 19"
