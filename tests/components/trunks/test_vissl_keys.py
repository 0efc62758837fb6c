"""VISSL's state-dict keys against the lists that VISSL's own models gave (tests/parity/cases)."""

from __future__ import annotations

import json
from typing import Any

import pytest

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.parity.recipe import CASES
from tests.trunk_helpers import params_of, shapes

LIBRARY_ONLY = ("fc.", "head.fc.", "classifier.")
"""Classifiers of the libraries' models; VISSL's trunks have none."""


@pytest.mark.parametrize(
    "case",
    [
        "rn18_supervised",
        "rn50_layernorm",
        "rnsk152_w1",
        "regnet_cpu_test",
        "regnet_y8gf_linear",
        "regnet_fsdp_anynet",
        "regnet_v2_checkpoints",
        "effnet_b0_linear",
        "alexnet_bvlc_features",
        "alexnet_jigsaw_features",
        "alexnet_deepcluster_linear5",
        "mobilenet_tv_head",
        "mobilenet_timm_head",
        "convnext_tiny_linear",
    ],
)
def test_every_key_of_vissls_trunk_names_one_tensor_of_its_shape(case: str) -> None:
    recorded: dict[str, Any] = json.loads((CASES / f"{case}.json").read_text())
    theirs = {
        key.removeprefix("trunk.").removeprefix("base_model."): tuple(shape)
        for key, shape, _ in recorded["state_dict"]
        if key.startswith("trunk.")
    }
    (trunk,) = graphmodel.load_spec({"MODEL": recorded["model_diff"]}).trunks.values()
    family = find_trunk(trunk.family)
    assert family is not None
    params = family.Params(**trunk.params)
    found = {family.from_vissl_key(key, params): shape for key, shape in theirs.items()}
    ours = {k: s for k, s in shapes(trunk.family, **trunk.params).items() if not k.startswith(LIBRARY_ONLY)}
    assert found == ours
    assert len(found) == len(theirs)
    assert {family.to_vissl_key(key, params) for key in ours} == set(theirs)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("regnet", {"variant": "regnet_z_500mf"}),
        ("regnet_fsdp", {"variant": "regnet_y_400mf", "stage_checkpoints": [[], [1, 3], [2]]}),
        (
            "regnet",
            {"depth": 4, "w_0": 16, "w_a": 20.0, "w_m": 2.0, "group_width": 8, "block_type": "res_basic_block"},
        ),
        ("regnet", {"depth": 4, "w_0": 16, "w_a": 20.0, "w_m": 2.0, "group_width": 8, "block_type": "vanilla_block"}),
        ("efficientnet", {"model_version": "B3"}),
        ("efficientnet", {"model_version": "B1", "use_se": False}),
        ("resnet_sk", {"depth": 50, "width_multiplier": 1, "sk_ratio": 0.0}),
        ("mobilenetv3_timm", {"trunk_only": False}),
        ("resnet", {"depth": 50, "groups": 32, "width_per_group": 4}),
    ],
)
def test_the_way_to_vissls_keys_and_back_ends_where_it_began(name: str, params: dict[str, Any]) -> None:
    family, values = find_trunk(name), params_of(name, **params)
    assert family is not None
    theirs = {key: family.to_vissl_key(key, values) for key in shapes(name, **params)}
    for key, vissl in theirs.items():
        if key.startswith(LIBRARY_ONLY):
            assert vissl is None
        else:
            assert vissl is not None
            assert vissl != key
            assert family.from_vissl_key(vissl, values) == key
    assert len(set(theirs.values())) == len([k for k in theirs if not k.startswith(LIBRARY_ONLY)]) + (
        None in theirs.values()
    )
