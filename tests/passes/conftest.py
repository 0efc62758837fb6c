"""Graphs before any pass."""

from __future__ import annotations

from typing import Any

import graphmodel
from graphmodel.build.build import build_graph
from graphmodel.graph.types import ModelGraph


def raw(spec: dict[str, Any]) -> ModelGraph:
    """The graph of a spec before any pass."""
    return build_graph(graphmodel.load_spec(spec))


def calls(graph: ModelGraph, target: str) -> list[str]:
    """Names of the calls of a module."""
    return [n.name for n in graph.nodes.values() if str(n.target) == target]


def lines(graph: ModelGraph, *names: str) -> list[str]:
    """The lines of the graph's text that define these nodes, or return these outputs."""
    wanted = tuple(f"  {start}{name}:" for name in names for start in ("%", "return "))
    return [line.strip() for line in str(graph).splitlines() if line.startswith(wanted)]
