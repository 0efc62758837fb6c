"""Counts of parameters and operations against hand counts and torch's own counter on the whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import graphmodel
from graphmodel.profiling.flops import count_flops
from graphmodel.profiling.report import report


def graph_of(spec: dict[str, Any]) -> graphmodel.ModelGraph:
    return graphmodel.build_graph(graphmodel.load_spec(spec))


def test_flops_agree_with_torchs_counter_over_torchvisions_model(small: dict[str, Any]) -> None:
    small["heads"]["head"]["mlp"]["dims"] = ["auto", 1000]
    with FlopCounterMode(display=False) as counter:
        resnet18().eval()(torch.zeros(1, 3, 64, 64))
    assert sum(count_flops(graph_of(small)).values()) == counter.get_total_flops()


def test_flops_of_a_head_that_joins_rows_are_those_of_one_sample(two_inputs: dict[str, Any]) -> None:
    flops = count_flops(graph_of(two_inputs))
    joined = next(v for k, v in flops.items() if k == "jigsaw")
    assert joined == 2 * 36 * 8


def test_counting_changes_no_mode_and_no_statistic(small: dict[str, Any]) -> None:
    graph = graph_of(small)
    modes = [m.training for c in graph.components.values() for m in c.meta.modules()]
    count_flops(graph)
    assert [m.training for c in graph.components.values() for m in c.meta.modules()] == modes


def test_rows_name_the_features_that_stages_are(small: dict[str, Any]) -> None:
    rows = {row.node: row for row in report(graph_of(small)).rows}
    assert rows["layer3"].feature == ("res4",)
    assert rows["layer3"].shape == "N×256×4×4"
    assert rows["head"].parameters == 512 * 10 + 10


def test_frozen_parameters_are_counted_by_name(small: dict[str, Any]) -> None:
    small["freeze"] = ["trunk.conv1", "heads.head"]
    result = report(graph_of(small))
    assert result.frozen == 64 * 3 * 7 * 7 + 5130
    assert {row.node for row in result.rows if row.is_frozen} == {"conv1", "head"}


def test_memory_is_that_of_the_module(small: dict[str, Any]) -> None:
    module = graphmodel.compile(small, device="meta")
    tensors = [*module.parameters(), *module.buffers()]
    assert report(module.model_graph).bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert report(module.model_graph).trained == sum(p.numel() for p in module.parameters())
