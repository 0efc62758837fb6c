from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, params_of, read, shapes


def torchvisions(name: str = "mobilenet_v3_large") -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


def timms(name: str = "mobilenetv3_large_100") -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    return model


@pytest.mark.parametrize("size", ["large", "small"])
def test_weights_are_what_torchvision_draws_under_the_seed(size: str) -> None:
    assert_same_state(build("mobilenetv3_tv", variant=f"mobilenetv3_{size}_100"), torchvisions(f"mobilenet_v3_{size}"))


@pytest.mark.parametrize("variant", ["mobilenetv3_large_100", "mobilenetv3_small_050"])
def test_weights_are_what_timm_draws_under_the_seed(variant: str) -> None:
    reference = timms(variant)
    reference.classifier = nn.Identity()
    assert_same_state(build("mobilenetv3_timm", variant=variant, trunk_only=False), reference)


def test_torchvisions_features_are_the_values_inside_its_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = torchvisions().eval()
    with torch.no_grad():
        trunk = reference.features(x)
        pooled = trunk.mean((2, 3))
        wanted = [trunk, pooled, pooled / pooled.norm(dim=1, keepdim=True), pooled]
    found = read("mobilenetv3_tv", ["trunk", "trunk_pool", "trunk_pool_norm", "pre_logits"], x)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want)


def test_timms_features_are_the_values_inside_its_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = timms().eval()
    with torch.no_grad():
        trunk = reference.forward_features(x)
        pooled, head = trunk.mean((2, 3)), reference.forward_head(trunk, pre_logits=True)
        wanted = [trunk, pooled, head, pooled / pooled.norm(dim=1, keepdim=True), head / head.norm(dim=1, keepdim=True)]
    names = ["trunk", "trunk_pool", "flatten", "trunk_pool_norm", "flatten_norm"]
    for value, want in zip(read("mobilenetv3_timm", names, x, trunk_only=False), wanted, strict=True):
        torch.testing.assert_close(value, want)


def test_the_trunk_alone_passes_the_pooled_vector_through_the_activation() -> None:
    x = torch.randn(2, 3, 64, 64)
    pooled, flat, unit = read("mobilenetv3_timm", ["trunk_pool", "flatten", "flatten_norm"], x)
    assert flat.shape == (2, 960)
    torch.testing.assert_close(flat, nn.functional.hardswish(pooled))
    torch.testing.assert_close(unit, nn.functional.normalize(flat, dim=-1))
    assert not torch.equal(flat, pooled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params", "feature"),
    [
        ("mobilenetv3_tv", {}, "trunk_pool"),
        ("mobilenetv3_timm", {}, "trunk_pool"),
        ("mobilenetv3_timm", {"trunk_only": False}, "flatten"),
    ],
)
def test_the_default_feature_is_what_vissl_gives(name: str, params: dict[str, bool], feature: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": name, **params}}
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    with torch.no_grad():
        assert torch.equal(model(x), *read(name, [feature], x, **params))


@pytest.mark.parametrize("name", ["mobilenetv3_tv", "mobilenetv3_timm"])
def test_stages_end_at_strides_4_8_16_and_32(name: str) -> None:
    maps = read(name, ["stage1", "stage2", "stage3", "stage4"], torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (960, 2, 2)]


def test_timm_bn_sets_epsilon_and_momentum_of_torchvisions() -> None:
    def norms(**params: bool) -> set[tuple[float, float]]:
        model = build("mobilenetv3_tv", **params)
        return {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}

    assert norms(timm_bn=True) == {(1e-5, 0.1)}
    assert norms() == {(1e-3, 0.01)}


@pytest.mark.parametrize("name", ["mobilenetv3_tv", "mobilenetv3_timm"])
def test_vissl_keys_are_the_librarys_under_a_prefix(name: str) -> None:
    family, params = find_trunk(name), params_of(name)
    assert family is not None
    for key in shapes(name):
        assert family.from_vissl_key(f"model.{key}", params) == key


@pytest.mark.parametrize("name", ["mobilenetv3_tv", "mobilenetv3_timm"])
def test_unknown_variants_and_lab_are_refused(name: str) -> None:
    for params, message in (
        ({"variant": "mobilenetv2_100"}, "mobilenetv3_large_100"),
        ({"input_type": "lab"}, "three channels"),
    ):
        with pytest.raises(graphmodel.CompileError, match=message):
            read(name, ["trunk"], torch.zeros(1, 3, 32, 32), **params)
