"""Which modules a plan lists: stages, cut where they are large, each once and before what holds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.sharding.plan import shard_units


def paths(spec: Any) -> list[str]:
    return [unit.path for unit in shard_units(graphmodel.compile(spec, device="meta"))]


def test_a_large_stage_is_cut_into_blocks_and_heads_are_units(small: dict[str, Any]) -> None:
    blocks = ["trunk.layer3.0", "trunk.layer3.1", "trunk.layer4.0.conv1", "trunk.layer4.0.conv2", "trunk.layer4.1"]
    found = paths(small)
    assert set(found) >= {"trunk.layer1", "trunk.layer2", *blocks[:2], "heads.head"}
    assert "trunk.layer4" not in found
    assert found[-1] == ""


def test_units_hold_every_parameter_once(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile(two_inputs, device="meta")
    units = shard_units(model)
    assert sum(unit.bytes for unit in units) == sum(p.numel() * 4 for p in model.parameters())
    assert len({id(unit.module) for unit in units}) == len(units)
    assert {unit.path: unit.calls for unit in units}["trunk.layer1"] == 2
    largest = max(unit.bytes for unit in units)
    assert largest <= sum(unit.bytes for unit in units) / 3
    assert units[-1].bytes < sum(unit.bytes for unit in units) / 100


def test_the_plan_lists_modules_of_the_model_without_the_root(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    plan = graphmodel.shard_plan(model)
    assert plan
    assert all(any(stage is module for module in model.modules()) for stage in plan)
    assert all(stage is not model for stage in plan)


def test_modules_that_share_a_parameter_with_others_are_left_to_the_root(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    model.trunk.layer1[0].conv1.weight = model.trunk.layer1[1].conv1.weight
    assert "trunk.layer1" in [unit.path for unit in shard_units(model)], "shared inside of one unit"
    model.trunk.layer1[0].conv2.weight = model.trunk.conv1.weight
    assert "trunk.layer1" not in [unit.path for unit in shard_units(model)]


def test_a_plan_of_a_module_with_weights_is_the_same(small: dict[str, Any]) -> None:
    assert [unit.path for unit in shard_units(graphmodel.compile(small, seed=0))] == paths(small)


def test_wrapping_a_module_on_meta_leaves_its_graph_alone(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    model.to_empty(device="cpu")
    assert all(p.is_meta for c in model.model_graph.components.values() for p in c.meta.parameters())


@pytest.mark.parametrize("function", [graphmodel.shard_plan, graphmodel.materialise])
def test_other_modules_are_refused(function: Any) -> None:
    for given in (nn.Linear(2, 2), None, "spec.yaml"):
        with pytest.raises(graphmodel.CompileError, match="GM575"):
            function(given)


def test_a_plan_needs_no_memory(small: dict[str, Any]) -> None:
    with torch.device("meta"):
        assert graphmodel.shard_plan(graphmodel.compile(small, device="meta"))
