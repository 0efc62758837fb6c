"""The invariants of a graph: cycles are found and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import graphmodel
from graphmodel.graph.types import InvalidGraph, Ref
from graphmodel.graph.verify import verify


def test_a_cycle_is_named(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec(small))
    first, *_, last = [n for n in graph.nodes.values() if n.kind == "trunk" and n.call == "module"]
    closed = replace(first, args=(Ref(last.name),))
    broken = graph.replace_nodes(closed if n.name == first.name else n for n in graph.nodes.values())
    with pytest.raises(InvalidGraph, match=r"the calls .* read each other in a cycle") as caught:
        verify(broken)
    assert f"{first.name} -> " in str(caught.value)
    assert last.name in str(caught.value)


def test_calls_in_a_wrong_order_are_not_called_a_cycle(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec(small))
    with pytest.raises(InvalidGraph, match="before it is computed") as caught:
        verify(graph.replace_nodes(reversed(list(graph.nodes.values()))))
    assert "cycle" not in str(caught.value)
