"""Freeze marks the calls that do not train, and tells of statistics that still move."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.passes._example import example
from graphmodel.passes.freeze import Freeze
from tests.passes.conftest import lines


def test_the_text_before_and_after() -> None:
    graph = example({"images": {"stage1": None}}, freeze=["trunk.conv", "trunk.norm"])
    assert lines(graph, "conv", "norm", "stage1") == [
        "%conv: N×4×6×6 = trunk trunk.conv(%images)",
        "%norm: N×4×6×6 = trunk trunk.norm(%conv)",
        "%stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)",
        "return stage1: stage1=%stage1",
    ]
    result = Freeze().run(graph)
    assert lines(result.graph, "conv", "norm", "stage1") == [
        "%conv: N×4×6×6 = trunk trunk.conv(%images) frozen",
        "%norm: N×4×6×6 = trunk trunk.norm(%conv) frozen",
        "%stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)",
        "return stage1: stage1=%stage1",
    ]
    assert (result.changed, result.notes) == (True, ())


def test_nothing_frozen_changes_nothing() -> None:
    graph = example({"images": {"stage1": None}})
    assert Freeze().run(graph).graph is graph


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["trunk.bn1.bias"], "the running statistics of `trunk.bn1`; `trunk.bn1.bias` covers only some"),
        (["*.bias"], "the running statistics of `trunk.bn1` and 19 more; `*.bias` covers only some"),
        (["trunk.bn1.bias", "trunk.bn1.weight"], None),
        (["trunk.bn1"], None),
        (["trunk"], None),
        (["heads.head.clf.0.bias"], None),
    ],
)
def test_statistics_that_still_move_are_told(small: dict[str, Any], freeze: list[str], message: str | None) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**small, "freeze": freeze}))
    found = [n.message for n in graph.notes if n.code == "GM402"]
    assert len(found) == (message is not None)
    assert all(str(message) in text for text in found)
    # The module agrees with what is told of it.
    model = graphmodel.compile({**small, "freeze": freeze}, device="meta")
    assert model.trunk.bn1.training is (message is not None or freeze[0].startswith("heads"))
