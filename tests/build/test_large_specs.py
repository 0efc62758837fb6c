"""Large specs: work that would grow faster than the spec is done once."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.build import open as build_open
from graphmodel.passes import merge_calls
from tests.effort import steps

TRUNK = {"name": "resnet", "depth": 18, "width_multiplier": 0.25}
VECTOR = {"from": "images.res2", "pool": {"adaptive_avg_pool2d": 1}, "flatten": True}


def counted(patch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Gets one entry for each call of a function."""
    calls: list[str] = []
    function = getattr(module, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    patch.setattr(module, name, wrapper)
    return calls


def test_a_trunk_is_opened_once_for_inputs_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, build_open, "open_trunk")
    inputs = {"a": [3, 32, 32], "b": [3, 32, 32], "c": [3, 64, 64], "d": [3, 32, 32]}
    mapping = [{"from": f"{name}.res2", "as": name} for name in inputs]
    mapping[-1]["from"] = "d.res3"
    model = graphmodel.compile({"inputs": inputs, "trunk": TRUNK, "mapping": mapping}, device="meta")
    assert len(calls) == 3, "once for a and b, once for the size of c, once for the feature of d"
    shapes = {name: model.model_graph.nodes[o.parts[name]].info.shape for name, o in model.model_graph.outputs.items()}
    assert shapes["a"] == shapes["b"] != shapes["c"]


def test_equal_calls_are_proved_equal_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, merge_calls, "why_impure")
    heads = {"label": {"mlp": {"dims": ["auto", 4]}}}
    mapping = [{**VECTOR, "head": "label", "as": f"label{i}"} for i in range(6)]
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": TRUNK, "heads": heads, "mapping": mapping}
    model = graphmodel.compile(spec, device="meta")
    assert model.code.count("heads.label(") == 1
    assert len(calls) <= 3, "one for each call that is repeated: pooling, flattening, the head"


def test_what_many_nodes_need_is_found_in_one_walk() -> None:
    heads = {"first": {"mlp": {"dims": ["auto", 4]}}, "next": {"mlp": {"dims": [4, 4]}}}
    links = [{"from": f"z{i}", "head": "next", "as": f"z{i + 1}"} for i in range(30)]
    mapping = [{**VECTOR, "head": "first", "as": "z0"}, *links]
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": TRUNK, "heads": heads, "mapping": mapping}
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    last = graph.outputs["z30"].parts.values()
    assert graph.needed_by(last) == graph.needed_by(graph.nodes) == {*graph.nodes}
    assert graph.needed_by(graph.outputs["z0"].parts.values()) < {*graph.nodes}
    assert steps(lambda: graph.needed_by(graph.nodes))[0] < 2 * steps(lambda: graph.needed_by(last))[0]
