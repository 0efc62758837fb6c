"""Builds that remember traced trunks give the graphs of builds that do not."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.build import open as opening
from graphmodel.build.remembered import TracedTrunks, remembering
from tests.visualize import toy  # noqa: F401 (registers the toy transformer)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was traced."""
    found: list[Any] = []
    own = opening.open_trunk

    def trace(*args: Any, **settings: Any) -> Any:
        found.append(args)
        return own(*args, **settings)

    monkeypatch.setattr(opening, "open_trunk", trace)
    return found


def spec(width: int = 4, size: int = 16, feature: str = "last", **params: Any) -> dict[str, Any]:
    return {
        "inputs": {"images": [3, size, size]},
        "trunk": {"name": "toy_transformer", **params},
        "heads": {"head": {"mlp": {"dims": ["auto", width]}}},
        "mapping": {"images": {feature: "head"}},
    }


def text(mapping: dict[str, Any]) -> str:
    return str(graphmodel.build_graph(graphmodel.load_spec(mapping)))


def test_a_trunk_is_traced_again_only_if_it_or_what_is_read_of_it_changes(traces: list[Any]) -> None:
    memory: TracedTrunks = {}
    for mapping, is_traced in [
        (spec(), True),
        (spec(width=5), False),
        (spec(), False),
        (spec(feature="block3"), True),
        (spec(feature="block3", freeze=True), False),
        (spec(), True),  # only what the last build used is kept
    ]:
        del traces[:]
        with remembering(memory):
            remembered = text(mapping)
        assert bool(traces) == is_traced, mapping
        assert remembered == text(mapping)
        assert len(memory) == 1


def test_a_failed_build_forgets_nothing(traces: list[Any]) -> None:
    memory: TracedTrunks = {}
    with remembering(memory):
        text(spec())
    with pytest.raises(graphmodel.CompileError), remembering(memory):
        text(spec(feature="no_such_feature"))
    assert len(memory) == 1
    del traces[:]
    with remembering(memory):
        text(spec())
    assert traces == []


def test_other_parameters_of_a_trunk_are_another_trunk(two_inputs: dict[str, Any], traces: list[Any]) -> None:
    memory: TracedTrunks = {}
    other = {**two_inputs, "trunk": {"name": "resnet", "depth": 34}}
    for mapping in (two_inputs, other, two_inputs):
        with remembering(memory):
            remembered = text(mapping)
        assert remembered == text(mapping)
    assert len(memory) == 2, "one for each shape of the inputs"


def test_without_a_memory_nothing_is_kept(traces: list[Any]) -> None:
    text(spec())
    text(spec())
    assert len(traces) == 2
