"""Many views of one shape cost one tracing of the trunk, however many passes they take."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.build import open as opening


def test_views_that_take_a_pass_each_are_traced_once_per_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[Any] = []
    original = opening.open_trunk

    def counted(*args: Any, **options: Any) -> Any:
        traced.append(args)
        return original(*args, **options)

    monkeypatch.setattr(opening, "open_trunk", counted)
    views = [{"count": 5, "shape": [3, 64, 64]}, {"count": 3, "shape": [3, 32, 32]}]
    spec = {
        "inputs": {"crops": {"views": views, "grouping": "crop"}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"h": "identity"},
    }
    graph = graphmodel.compile(spec, device="meta").model_graph
    assert len(traced) == 2
    assert sum(node.target == "trunk.layer4" for node in graph.nodes.values()) == 8
