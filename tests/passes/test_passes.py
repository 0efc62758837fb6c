"""Passes: pure functions whose promises are checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import graphmodel
from graphmodel.build.build import build_graph
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.graph.verify import verify
from graphmodel.passes.manager import run_passes
from graphmodel.passes.merge_calls import MergeCalls
from graphmodel.passes.pipeline import PIPELINE
from graphmodel.passes.prune import Prune


def raw(spec: dict[str, Any]) -> ModelGraph:
    """The graph before any pass."""
    return build_graph(graphmodel.load_spec(spec))


def calls(graph: ModelGraph, target: str) -> list[str]:
    return [n.name for n in graph.nodes.values() if str(n.target) == target]


def test_prune_removes_what_no_output_needs(two_inputs: dict[str, Any]) -> None:
    graph = raw(two_inputs)
    cut = replace(graph, outputs={"image": graph.outputs["image"]})
    pruned = Prune().run(cut)
    assert not any(n.scope == "patches" for n in pruned.nodes.values())
    assert set(pruned.components) == {"trunk", "heads.image"}
    assert calls(graph, "heads.jigsaw.1") == ["jigsaw_1"], "the given graph is left as it is"


def test_merge_calls_runs_the_same_head_on_the_same_feature_once(small: dict[str, Any]) -> None:
    twice = {**small, "mapping": [{"from": "images.flatten", "head": "head", "as": n} for n in ("a", "b")]}
    graph = run_passes(raw(twice), (Prune(), MergeCalls()))
    assert len(calls(graph, "heads.head")) == 1
    assert graph.outputs["a"].parts["a"] == graph.outputs["b"].parts["b"]
    assert any("run once" in s for s in graph.saved)


def test_one_input_under_three_entries_is_one_trunk_pass(small: dict[str, Any]) -> None:
    layers = [{"from": f"images.{f}", "as": f} for f in ("res3", "res4", "flatten")]
    graph = run_passes(raw({**small, "heads": {}, "mapping": layers}), PIPELINE)
    assert len(calls(graph, "trunk.layer1")) == 1


def test_the_same_weights_on_two_inputs_stay_two_calls(two_inputs: dict[str, Any]) -> None:
    graph = run_passes(raw(two_inputs), PIPELINE)
    assert len(calls(graph, "trunk.layer1")) == 2
    assert len([c for c in graph.components if c == "trunk"]) == 1


def test_the_network_keeps_parallel_edges(small: dict[str, Any]) -> None:
    both = {**small, "heads": {}, "mapping": [{"from": ["images.flatten", "images.flatten"], "as": "twice"}]}
    network = raw(both).network
    assert network.number_of_edges(*next(e[:2] for e in network.edges if e[1].startswith("twice"))) == 2


class Breaking:
    """A pass that drops the node that others read."""

    name = "break"
    requires: frozenset[str] = frozenset()

    def run(self, graph: ModelGraph) -> ModelGraph:
        return graph.replace_nodes(n for n in graph.nodes.values() if n.name != "layer1")

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        return None


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it(small: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraph, match=r"the pass `break` \(passes before: prune\).*layer1"):
        run_passes(raw(small), (Prune(), Breaking()))


def test_a_pass_runs_only_after_those_it_requires(small: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraph, match="requires prune"):
        run_passes(raw(small), (MergeCalls(),))


def test_verify_finds_names_order_and_components_that_are_wrong(small: dict[str, Any]) -> None:
    graph = raw(small)
    nodes = list(graph.nodes.values())
    with pytest.raises(InvalidGraph, match="before it is computed"):
        verify(graph.replace_nodes(reversed(nodes)))
    with pytest.raises(InvalidGraph, match="not a valid name"):
        verify(graph.replace_nodes([*nodes, Node("a b", "op", "function", len)]))
    with pytest.raises(InvalidGraph, match="unknown component"):
        verify(graph.replace_nodes([*nodes, Node("x", "head", "module", "heads.x", component="heads.x")]))
