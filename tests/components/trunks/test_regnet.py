from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import graphmodel
from graphmodel.components.construct import build_on_meta
from graphmodel.components.registry import find_trunk
from graphmodel.components.trunks.regnet import NAMED, RegNetParams
from tests.effort import RealTensors
from tests.trunk_helpers import assert_same_state, build, disturb, params_of, read, shapes

NARROWER = {"regnet_x_400mf": "regnetx_004", "regnet_y_800mf": "regnety_008", "regnet_y_8gf": "regnety_080"}
"""Where torchvision rounds widths up, and the same models in timm, which rounds as the paper's code does."""
SAME = [n for n in torchvision.models.list_models() if n.startswith("regnet") and n not in NARROWER]
SMALL = {"depth": 4, "w_0": 16, "w_a": 20.0, "w_m": 2.0, "group_width": 8}
GIANT = {"depth": 27, "w_0": 640, "w_a": 230.83, "w_m": 2.53, "group_width": 373}


def library(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


def timm_widths(name: str) -> list[int]:
    with torch.device("meta"):
        model = timm.create_model(name)
    return [info["num_chs"] for info in model.feature_info[1:]]


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_x_800mf", "regnet_x_1_6gf"])
def test_weights_are_what_torchvision_draws_under_the_seed(name: str) -> None:
    assert_same_state(build("regnet", variant=name), library(name))


@pytest.mark.parametrize("name", SAME)
def test_predefined_models_have_torchvisions_tensors(name: str) -> None:
    theirs = build_on_meta(lambda: library(name))
    assert shapes("regnet", variant=name) == {key: tuple(t.shape) for key, t in theirs.state_dict().items()}


@pytest.mark.parametrize(("name", "reference"), NARROWER.items())
def test_predefined_models_that_torchvision_widens_have_the_papers_widths(name: str, reference: str) -> None:
    assert [s.width for s in RegNetParams(variant=name).stages()] == timm_widths(reference)


@pytest.mark.parametrize(
    ("params", "reference"),
    [
        ({"variant": "regnet_y_64gf"}, "regnety_640"),
        ({"variant": "regnet_y_128gf"}, "regnety_1280"),
        (GIANT, "regnety_2560"),
    ],
)
def test_giants_have_the_size_of_timms(params: dict[str, Any], reference: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(reference, num_classes=0)
    ours = {k: s for k, s in shapes("regnet", **params).items() if not k.startswith("fc.")}
    assert sum(torch.Size(s).numel() for s in ours.values()) == sum(t.numel() for t in theirs.state_dict().values())


def test_a_name_may_be_spelled_as_classyvision_does() -> None:
    assert RegNetParams(variant="regnet_y_1.6gf").stages() == RegNetParams(variant="regnet_y_1_6gf").stages()


def test_z_models_have_inverted_bottlenecks_with_silu() -> None:
    model = build("regnet", variant="regnet_z_500mf")
    block = model.trunk_output.block2[1]
    outer, inner = block.f.c[0].out_channels, block.f.c[0].in_channels
    assert inner == 4 * outer
    assert isinstance(block.f.a[2], nn.SiLU)
    assert not any(".proj." in key for key in model.state_dict())


def test_features_are_the_values_inside_torchvisions_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    blocks = {f"trunk_output.block{i}": f"res{i + 1}" for i in range(1, 5)}
    reference = create_feature_extractor(
        library("regnet_y_400mf"), {"stem": "conv1", **blocks, "avgpool": "avgpool", "flatten": "flatten"}
    )
    with torch.no_grad():
        wanted = reference.eval()(x)
    for name, value in zip(wanted, read("regnet", list(wanted), x, variant="regnet_y_400mf"), strict=True):
        torch.testing.assert_close(value, wanted[name])


@pytest.mark.parametrize("name", ["regnet_v2", "regnet_fsdp"])
def test_sharded_names_are_the_same_model(name: str) -> None:
    assert_same_state(build(name, **SMALL), build("regnet", **SMALL))


def test_anynet_takes_its_stages_from_lists() -> None:
    found = shapes(
        "regnet",
        variant="anynet",
        depths=[1, 2],
        widths=[16, 48],
        group_widths=[8, 12],
        bottleneck_multipliers=[1.0, 0.5],
        strides=[1, 2],
        stem_width=24,
    )
    assert found["stem.0.weight"] == (24, 3, 3, 3)
    assert found["trunk_output.block1.block1-0.f.b.0.weight"] == (16, 8, 3, 3)
    assert found["trunk_output.block2.block2-0.f.b.0.weight"] == (24, 12, 3, 3)
    assert found["trunk_output.block2.block2-1.f.c.0.weight"] == (48, 24, 1, 1)
    assert not any("block2-2" in key for key in found)


def test_anynets_of_other_depths_have_a_feature_for_each_stage() -> None:
    lists = {
        "depths": [1, 1, 1],
        "widths": [8, 16, 24],
        "group_widths": [8, 8, 8],
        "bottleneck_multipliers": [1.0, 1.0, 1.0],
        "strides": [1, 2, 2],
    }
    x = torch.randn(2, 3, 32, 32)
    maps = read("regnet", ["res2", "res3", "res4"], x, variant="anynet", **lists)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4)]


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], key: str, eps: float) -> torch.Tensor:
    return F.batch_norm(
        x,
        state[f"{key}.running_mean"],
        state[f"{key}.running_var"],
        state[f"{key}.weight"],
        state[f"{key}.bias"],
        eps=eps,
    )


@pytest.mark.parametrize("block", ["vanilla_block", "res_basic_block", "res_bottleneck_linear_block"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_blocks_compute_what_the_paper_says(block: str, activation: str) -> None:
    eps = 1e-3
    model = disturb(build("regnet", block_type=block, activation=activation, bn_epsilon=eps, **SMALL)).eval()
    state = model.state_dict()
    act = F.relu if activation == "relu" else F.silu
    x = torch.randn(2, 32, 16, 16)
    first = model.trunk_output.block1[0]

    def conv(value: torch.Tensor, key: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = state[f"{prefix}.{key}.0.weight"]
        value = F.conv2d(value, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        return norm(value, state, f"{prefix}.{key}.1", eps)

    prefix = "trunk_output.block1.block1-0"
    if block == "vanilla_block":
        wanted = act(conv(act(conv(x, "a", 2)), "b"))
    elif block == "res_basic_block":
        wanted = act(conv(x, "proj", 2) + conv(act(conv(x, "f.a", 2)), "f.b"))
    else:
        inner = act(conv(act(conv(x, "f.a")), "f.b", 2, groups=2))
        squeezed = inner.mean((2, 3), keepdim=True)
        for layer, then in (("fc1", act), ("fc2", torch.sigmoid)):
            se = f"{prefix}.f.se.{layer}"
            squeezed = then(F.conv2d(squeezed, state[f"{se}.weight"], state[f"{se}.bias"]))
        wanted = conv(inner * squeezed, "f.c")
    with torch.no_grad():
        torch.testing.assert_close(first(x.clone()), wanted, rtol=1e-4, atol=1e-4)


def test_linear_blocks_add_their_input_where_the_shape_stays() -> None:
    params = {**SMALL, "w_a": 0.0, "block_type": "res_bottleneck_linear_block"}
    second = disturb(build("regnet", **params)).eval().trunk_output.block1[1]
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(second(x), x + second.f(x))


@pytest.mark.parametrize(
    ("stem", "shape"),
    [("res_stem_cifar", (2, 24, 32, 32)), ("res_stem_in", (2, 24, 8, 8)), ("simple_stem_in", (2, 24, 16, 16))],
)
def test_stems_have_their_own_resolution(stem: str, shape: tuple[int, ...]) -> None:
    model = build("regnet", stem_type=stem.upper(), stem_width=24, **SMALL)
    out = model.stem(torch.randn(2, 3, 32, 32))
    assert tuple(out.shape) == shape
    assert (out >= 0).all()


def test_squeeze_and_excitation_can_be_left_out() -> None:
    with_se, without = shapes("regnet", **SMALL), shapes("regnet", use_se=False, **SMALL)
    assert set(with_se) - set(without) == {k for k in with_se if ".se." in k}
    half = shapes("regnet", se_ratio=0.5, **SMALL)
    assert half["trunk_output.block1.block1-0.f.se.fc1.weight"][0] == 16


def test_batch_norm_has_the_epsilon_and_momentum_asked_for() -> None:
    model = build("regnet", bn_epsilon=1e-3, bn_momentum=0.2, **SMALL)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.2)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_feature_blocks.conv1.stem.1.running_var", "stem.1.running_var"),
        ("_feature_blocks.res2.block1-0.proj.weight", "trunk_output.block1.block1-0.proj.0.weight"),
        ("_feature_blocks.res5.block4-0.bn.bias", "trunk_output.block4.block4-0.proj.1.bias"),
        ("_feature_blocks.res4.block3-11.f.a.1.weight", "trunk_output.block3.block3-11.f.a.1.weight"),
        ("_feature_blocks.res3.block2-1.f.se.excitation.0.bias", "trunk_output.block2.block2-1.f.se.fc1.bias"),
        ("_feature_blocks.res3.block2-1.f.se.excitation.2.bias", "trunk_output.block2.block2-1.f.se.fc2.bias"),
        ("_feature_blocks.res3.block2-1.f.c.weight", "trunk_output.block2.block2-1.f.c.0.weight"),
        ("_feature_blocks.res4.block3-part3.block3-9.f.final_bn.bias", "trunk_output.block3.block3-9.f.c.1.bias"),
    ],
)
def test_vissl_keys_name_the_same_tensors(theirs: str, ours: str) -> None:
    family, params = find_trunk("regnet"), params_of("regnet", variant="regnet_y_3_2gf")
    assert family is not None
    assert family.from_vissl_key(theirs, params) == ours
    assert ours in shapes("regnet", variant="regnet_y_3_2gf")


def test_vissl_keys_of_basic_blocks_name_the_same_tensors() -> None:
    params = {**SMALL, "block_type": "res_basic_block"}
    family, wanted = find_trunk("regnet"), shapes("regnet", **params)
    assert family is not None
    for theirs, ours in (
        ("res2.block1-0.f.a.0.weight", "f.a.0.weight"),
        ("res2.block1-0.f.a.3.weight", "f.b.0.weight"),
        ("res2.block1-0.f.final_bn.weight", "f.b.1.weight"),
    ):
        found = family.from_vissl_key(f"_feature_blocks.{theirs}", params_of("regnet", **params))
        assert found == f"trunk_output.block1.block1-0.{ours}"
        assert found in wanted


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "a RegNet without a name needs `depth`, `w_0`, `w_a`, `w_m`, `group_width`"),
        ({"depth": 4, "w_0": 16}, "needs `w_a`, `w_m`, `group_width`"),
        ({**SMALL, "w_0": 20}, "multiple of 8"),
        ({**SMALL, "depths": [1]}, "not `depths`"),
        ({"variant": "regnet_y_99gf"}, "takes `anynet` or a predefined RegNet"),
        ({"variant": "regnet_y_16gf", "depth": 20}, "`regnet_y_16gf` fixes all numbers"),
        ({"variant": "anynet", "depths": [1, 1]}, "an AnyNet needs `widths`"),
        (
            {
                "variant": "anynet",
                "depths": [1, 1],
                "widths": [8],
                "group_widths": [8],
                "bottleneck_multipliers": [1.0],
                "strides": [2],
            },
            "one entry for each stage",
        ),
        ({**SMALL, "input_type": "lab"}, "takes three channels"),
    ],
)
def test_numbers_that_make_no_regnet_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        read("regnet", ["flatten"], torch.zeros(1, 3, 32, 32), **params)
    assert message in str(caught.value)
    assert len(caught.value.diagnostics) == 1


@pytest.mark.slow
def test_the_giant_compiles_on_meta_without_memory() -> None:
    spec = {"inputs": {"images": {"shape": [3, 224, 224]}}, "trunk": {"name": "regnet", **GIANT}}
    with RealTensors() as counted:
        model = graphmodel.compile(spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) > 1.2e9
    assert counted.bytes < 10_000_000  # the weights are 5 GB
    assert counted.operations < 30_000


@pytest.mark.parametrize("name", [*NAMED, "regnet_x_1.6gf", "regnet_x_3.2gf", "regnet_y_1.6gf", "regnet_y_3.2gf"])
def test_a_predefined_name_is_a_trunk_in_both_dialects(name: str) -> None:
    variant = name.replace(".", "_")
    assert shapes(name) == shapes("regnet", variant=variant)
    head = {"PARAMS": [["mlp", {"dims": ["auto", 10]}]]}
    native = graphmodel.load_spec({"trunk": {"name": name}, "inputs": {"images": [3, 64, 64]}})
    vissl = graphmodel.load_spec({"MODEL": {"TRUNK": {"NAME": name}, "HEAD": head}})
    assert native.trunks["trunk"].family == vissl.trunks["trunk"].family == name


def test_both_forms_of_vissls_page_and_code_are_one_model() -> None:
    x = torch.randn(1, 3, 64, 64)
    (page,) = read("regnet_y_400mf", ["flatten"], x)
    (code,) = read("regnet", ["flatten"], x, variant="regnet_y_400mf")
    assert torch.equal(page, code)
    family, params = find_trunk("regnet_y_400mf"), params_of("regnet_y_400mf")
    plain, numbers = find_trunk("regnet"), params_of("regnet", variant="regnet_y_400mf")
    assert family is not None
    assert plain is not None
    for key in shapes("regnet_y_400mf"):
        assert family.to_vissl_key(key, params) == plain.to_vissl_key(key, numbers)
