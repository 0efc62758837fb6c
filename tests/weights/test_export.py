"""Weights under other names: VISSL's layout depends on how the heads are written, also after a conversion."""

from __future__ import annotations

from typing import Any

import torch
import torchvision

import graphmodel
from graphmodel.dialects.native.dump import dump

FIRST = ["mlp", {"dims": [512, 16]}]
SECOND = ["mlp", {"dims": [16, 4]}]
OTHER = ["mlp", {"dims": [512, 5]}]


def compiled(heads: list[Any], **settings: Any) -> graphmodel.CompiledModel:
    block = {"TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}}, "HEAD": {"PARAMS": heads}, **settings}
    return graphmodel.compile({"MODEL": block}, seed=0, inputs={"images": (3, 64, 64)})


def heads_of(module: graphmodel.CompiledModel) -> set[str]:
    return {k for k in graphmodel.export_weights(module, "vissl") if k.startswith("heads.") and k.endswith("weight")}


def test_a_flat_list_numbers_the_modules_and_a_list_of_lists_the_heads() -> None:
    assert heads_of(compiled([FIRST, SECOND])) == {"heads.0.clf.0.weight", "heads.1.clf.0.weight"}
    assert heads_of(compiled([[FIRST, SECOND]])) == {"heads.0.0.clf.0.weight", "heads.0.1.clf.0.weight"}


def test_each_head_is_composite_or_not_by_itself() -> None:
    mixed = {"FEATURE_EVAL_SETTINGS": {
        "EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True,
        "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [["flatten", ["Identity", []]], ["flatten", ["Identity", []]]],
    }}  # fmt: skip
    assert heads_of(compiled([OTHER, [FIRST, SECOND]], **mixed)) == {
        "heads.0.clf.0.weight", "heads.1.0.clf.0.weight", "heads.1.1.clf.0.weight",
    }  # fmt: skip


def test_the_native_form_of_a_vissl_file_keeps_vissls_names() -> None:
    frozen = {"FEATURE_EVAL_SETTINGS": {
        "EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True,
        "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [["flatten", ["Identity", []]]],
    }}  # fmt: skip
    module = compiled([[FIRST, SECOND]], **frozen)
    native = graphmodel.compile(dump(module.model_graph.spec), seed=0)
    names = set(graphmodel.export_weights(module, "vissl"))
    assert "trunk.base_model._feature_blocks.conv1.weight" in names
    assert set(graphmodel.export_weights(native, "vissl")) == names


def test_a_model_that_asks_for_its_version_loads_its_weights() -> None:
    """MNASNet's own loading refuses a state dict without the version of the class."""
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": "torchvision:mnasnet0_5",
        "mapping": {"images": {"layers.7": {"as": "stem"}}},
    }
    module = graphmodel.compile(spec, seed=0).eval()
    with torch.device("meta"):
        theirs = torchvision.models.mnasnet0_5(weights=None)
    stem = theirs.layers[:8].to_empty(device="cpu").eval()
    kept = theirs.load_state_dict(graphmodel.export_weights(module, "torchvision"), strict=False)
    assert not kept.unexpected_keys
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(stem(x), module(x)["stem"])
