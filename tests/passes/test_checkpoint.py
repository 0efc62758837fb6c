"""Checkpoint divides the stages of a trunk into segments."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.graph.types import ModelGraph
from graphmodel.passes._example import example
from graphmodel.passes.checkpoint import Checkpoint
from tests.passes.conftest import lines


def test_the_text_before_and_after() -> None:
    graph = example({"images": {"flatten": None}}, checkpoint=2)
    names = ("conv", "norm", "stage1", "stage2", "flatten")
    assert lines(graph, *names) == [
        "%conv: N×4×6×6 = trunk trunk.conv(%images)",
        "%norm: N×4×6×6 = trunk trunk.norm(%conv)",
        "%stage1: N×4×4×4 = trunk trunk.stage1(%norm)",
        "%stage2: N×4×2×2 = trunk trunk.stage2(%stage1)",
        "%flatten: N×16 = trunk trunk.flatten(%stage2) features=('flatten',)",
        "return flatten: flatten=%flatten",
    ]
    result = Checkpoint().run(graph)
    assert lines(result.graph, *names) == [
        "%conv: N×4×6×6 = trunk trunk.conv(%images) checkpoint=1",
        "%norm: N×4×6×6 = trunk trunk.norm(%conv) checkpoint=1",
        "%stage1: N×4×4×4 = trunk trunk.stage1(%norm) checkpoint=1",
        "%stage2: N×4×2×2 = trunk trunk.stage2(%stage1) checkpoint=2",
        "%flatten: N×16 = trunk trunk.flatten(%stage2) checkpoint=2 features=('flatten',)",
        "return flatten: flatten=%flatten",
    ]
    assert result.summary == "the activations of 2 segments of `trunk` are recomputed in the backward pass"


def built(spec: dict[str, Any], **changes: Any) -> ModelGraph:
    return graphmodel.build_graph(graphmodel.load_spec({**spec, **changes}))


def segments(graph: ModelGraph, scope: str = "images") -> list[list[str]]:
    """The calls of each segment of a trunk pass."""
    nodes = [n for n in graph.nodes.values() if n.scope == scope and n.facts.checkpoint]
    numbers = sorted({n.facts.checkpoint for n in nodes})
    return [[str(n.target).removeprefix("trunk.") for n in nodes if n.facts.checkpoint == i] for i in numbers]


STEM = ["conv1", "bn1", "relu", "maxpool"]


@pytest.mark.parametrize(
    ("asked", "stages"),
    [
        (1, [["layer1", "layer2", "layer3", "layer4"]]),
        (2, [["layer1", "layer2"], ["layer3", "layer4"]]),
        (3, [["layer1"], ["layer2"], ["layer3", "layer4"]]),
        (4, [["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
        (True, [["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
        (7, [["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    ],
)
def test_the_number_is_the_number_of_segments(small: dict[str, Any], asked: Any, stages: list[list[str]]) -> None:
    graph = built(small, checkpoint=asked)
    found = segments(graph)
    assert [[s for s in part if s.startswith("layer")] for part in found] == stages
    assert found[0][:4] == STEM, "what comes before the first stage belongs to its segment"
    assert [n.code for n in graph.notes] == (["GM403"] if asked == 7 else [])


def test_a_note_names_the_numbers_and_the_place(small: dict[str, Any]) -> None:
    (note,) = built(small, checkpoint=7).notes
    assert note.message == "7 segments were asked for and `trunk` has 4 stages: one for each"
    assert (note.severity, note.path) == ("note", "checkpoint")


def test_each_pass_of_a_shared_trunk_has_its_own_segments(two_inputs: dict[str, Any]) -> None:
    graph = built(two_inputs, checkpoint=2)
    assert len(segments(graph, "images")) == len(segments(graph, "patches")) == 2


def test_the_frozen_beginning_of_a_trunk_is_left_alone(small: dict[str, Any]) -> None:
    graph = built(small, checkpoint=True, freeze=["trunk.conv1", "trunk.bn1", "trunk.layer1"])
    assert [part[0] for part in segments(graph)] == ["layer2", "layer3", "layer4"]


def test_a_frozen_stage_that_a_gradient_passes_through_is_recomputed_too(small: dict[str, Any]) -> None:
    assert "layer2" in segments(built(small, checkpoint=1, freeze=["trunk.layer2"]))[0]


def test_a_frozen_trunk_has_nothing_to_recompute(small: dict[str, Any]) -> None:
    graph = built(small, checkpoint=True, freeze=["trunk"])
    assert segments(graph) == []
    assert [n.code for n in graph.notes] == ["GM404"]


@pytest.mark.parametrize(("one", "other", "text"), [
    (2, 4, "activation checkpointing: 4 segments, it was 2 segments"),
    (0, 1, "activation checkpointing: 1 segment, it was none"),
    (7, 4, "no difference"),
    (True, 7, "no difference"),
])  # fmt: skip
def test_diff_counts_the_segments_that_there_are(small: dict[str, Any], one: Any, other: Any, text: str) -> None:
    assert text in str(graphmodel.diff(built(small, checkpoint=one), built(small, checkpoint=other)))
