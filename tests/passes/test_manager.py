"""The manager checks what passes require and promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.graph.verify import verify
from graphmodel.passes.manager import run_passes
from graphmodel.passes.merge_calls import MergeCalls
from graphmodel.passes.pipeline import PIPELINE
from graphmodel.passes.prune import Prune
from graphmodel.passes.result import PassResult
from tests.passes.conftest import raw


class Breaking:
    """A pass that drops the node that others read."""

    name = "break"
    requires: frozenset[str] = frozenset()

    def run(self, graph: ModelGraph) -> PassResult:
        return PassResult(graph.replace_nodes(n for n in graph.nodes.values() if n.name != "layer1"), changed=True)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        return None


class Lying(Breaking):
    """A pass that changes the graph and says that it did not."""

    def run(self, graph: ModelGraph) -> PassResult:
        return PassResult(replace(graph), changed=False)


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it(small: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraph, match=r"the pass `break` \(passes before: prune\).*layer1"):
        run_passes(raw(small), (Prune(), Breaking()))


def test_a_pass_must_say_whether_it_changed_the_graph(small: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraph, match="says that it changed nothing"):
        run_passes(raw(small), (Lying(),))


def test_a_pass_runs_only_after_those_it_requires(small: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraph, match="requires prune"):
        run_passes(raw(small), (MergeCalls(),))


def test_the_graph_keeps_the_reports_of_all_passes(small: dict[str, Any]) -> None:
    graph = run_passes(raw({**small, "checkpoint": 7, "freeze": ["trunk.bn1.bias"]}), PIPELINE)
    assert graph.history == tuple(each.name for each in PIPELINE)
    assert [s.split(":")[0] for s in graph.summary] == ["checkpoint"]
    assert [n.code for n in graph.notes] == ["GM402", "GM403"]


def test_the_network_keeps_parallel_edges(small: dict[str, Any]) -> None:
    both = {**small, "heads": {}, "mapping": [{"from": ["images.flatten", "images.flatten"], "as": "twice"}]}
    network = raw(both).network
    assert network.number_of_edges(*next(e[:2] for e in network.edges if e[1].startswith("twice"))) == 2


def test_verify_finds_names_order_and_components_that_are_wrong(small: dict[str, Any]) -> None:
    graph = raw(small)
    nodes = list(graph.nodes.values())
    with pytest.raises(InvalidGraph, match="before it is computed"):
        verify(graph.replace_nodes(reversed(nodes)))
    with pytest.raises(InvalidGraph, match="valid name"):
        verify(graph.replace_nodes([*nodes, Node("a b", "op", "function", len)]))
    with pytest.raises(InvalidGraph, match="unknown component"):
        verify(graph.replace_nodes([*nodes, Node("x", "head", "module", "heads.x", component="heads.x")]))
