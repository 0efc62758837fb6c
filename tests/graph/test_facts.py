"""Facts about calls move to the call that takes over a value, or the change is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import graphmodel
from graphmodel.build.build import build_graph
from graphmodel.graph.types import InvalidGraph, ModelGraph
from graphmodel.graph.verify import verify


@pytest.fixture
def graph(small: dict[str, Any]) -> ModelGraph:
    """The graph before any pass; its one feature is `res3`."""
    layers = [{"from": "images.res3", "as": "map"}]
    return build_graph(graphmodel.load_spec({**small, "heads": {}, "mapping": layers}))


def test_features_move_to_the_call_that_takes_over(graph: ModelGraph) -> None:
    last = next(n for n in graph.nodes.values() if n.facts.features)
    before = last.refs()[0]
    merged = graph.merge({last.name: before})
    verify(merged)
    assert last.name not in merged.nodes
    assert merged.nodes[before].facts.features == last.facts.features
    assert all(last.name not in n.refs() for n in merged.nodes.values())


def test_removing_a_feature_by_hand_is_refused(graph: ModelGraph) -> None:
    last = next(n for n in graph.nodes.values() if n.facts.features)
    with pytest.raises(InvalidGraph, match="would be lost"):
        graph.replace_nodes(n for n in graph.nodes.values() if n is not last)
    with pytest.raises(InvalidGraph, match="would be lost"):
        graph.replace_nodes(replace(n, facts=replace(n.facts, features=())) for n in graph.nodes.values())


def test_a_call_whose_order_is_fixed_is_not_merged(graph: ModelGraph) -> None:
    last = next(n for n in graph.nodes.values() if n.facts.features)
    marked = graph.replace_nodes(n.with_facts(in_place=True) if n is last else n for n in graph.nodes.values())
    with pytest.raises(InvalidGraph, match="in_place"):
        marked.merge({last.name: last.refs()[0]})


def test_equal_calls_with_other_facts_are_not_merged(graph: ModelGraph) -> None:
    last = next(n for n in graph.nodes.values() if n.facts.features)
    again = replace(last, name="again").with_facts(frozen=True)
    doubled = graph.replace_nodes([*graph.nodes.values(), again])
    with pytest.raises(InvalidGraph, match="frozen"):
        doubled.merge({"again": last.name})


def test_what_is_still_read_is_not_dropped(graph: ModelGraph) -> None:
    with pytest.raises(InvalidGraph, match="still read"):
        graph.drop([next(iter(graph.outputs.values())).parts["map"]])
