"""VISSL's keys of transformers, and the tensors that it stores in another form, against its own models' lists."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.parity.recipe import CASES
from tests.trunk_helpers import build, disturb, params_of, shapes

CASES_OF_TRANSFORMERS = [
    "beit_b16_linear",
    "beit_defaults",
    "classy_vit_linear",
    "convit_s",
    "swin_official",
    "swin_t_dino",
    "vit_b16_vithead",
    "vit_s16_dino_fsdp",
    "vit_s16_ibot",
    "vit_ti_features_nocls",
    "xcit_s12_p16_dino",
]
NOT_IN_VISSL = ("fc_norm.",)
"""timm's BEiT norms after pooling where VISSL leaves the norm out."""


@pytest.mark.parametrize("case", CASES_OF_TRANSFORMERS)
def test_vissls_checkpoint_has_every_tensor_in_its_shape_and_is_written_back(case: str) -> None:
    recorded: dict[str, Any] = json.loads((CASES / f"{case}.json").read_text())
    theirs = {
        key.removeprefix("trunk.").removeprefix("base_model."): torch.empty(shape, device="meta")
        for key, shape, _ in recorded["state_dict"]
        if key.startswith("trunk.") and not key.endswith("relative_position_index")
    }
    (trunk,) = graphmodel.load_spec({"MODEL": recorded["model_diff"]}).trunks.values()
    family = find_trunk(trunk.family)
    assert family is not None
    params = family.Params(**trunk.params)
    found = {
        family.from_vissl_key(k, params): tuple(t.shape) for k, t in family.from_vissl_tensors(theirs, params).items()
    }
    ours = {k: s for k, s in shapes(trunk.family, **trunk.params).items() if not k.startswith(NOT_IN_VISSL)}
    assert found == ours
    written = {family.to_vissl_key(k, params): torch.empty(s, device="meta") for k, s in ours.items()}
    back = family.to_vissl_tensors({f"trunk.{k}": t for k, t in written.items()}, params)
    assert {k: tuple(t.shape) for k, t in back.items()} == {f"trunk.{k}": tuple(t.shape) for k, t in theirs.items()}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vision_transformer", {"image_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}),
        ("classy_vit", {"image_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}),
        ("convit", {"image_size": 32, "num_layers": 11, "num_heads": 4, "hidden_dim": 8, "mlp_dim": 8}),
        ("xcit", {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}),
        ("beit", {"image_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "use_mean_pooling": False}),
        ("swin_transformer", {"embed_dim": 4, "depths": [1, 2], "num_heads": [1, 2]}),
    ],
)
def test_values_come_back_as_they_went(name: str, params: dict[str, Any]) -> None:
    family, values = find_trunk(name), params_of(name, **params)
    assert family is not None
    ours = disturb(build(name, **params)).state_dict()
    theirs = {f"trunk.{family.to_vissl_key(k, values)}": v for k, v in ours.items()}
    theirs = family.to_vissl_tensors(theirs, values)
    assert len(theirs) <= len(ours)
    back = family.from_vissl_tensors(theirs, values)
    back = {family.from_vissl_key(k.removeprefix("trunk."), values): v for k, v in back.items()}
    assert set(back) == set(ours)
    for key, value in ours.items():
        assert torch.equal(back[key], value), key
