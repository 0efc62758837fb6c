"""Prune removes what no output needs and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graphmodel.passes._example import example
from graphmodel.passes.manager import run_passes
from graphmodel.passes.prune import Prune
from tests.passes.conftest import calls, raw

BEFORE = """\
graph example(images)
  %images: N×3×8×8 = input
  %conv: N×4×6×6 = trunk trunk.conv(%images)
  %norm: N×4×6×6 = trunk trunk.norm(%conv)
  %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
  %stage2: N×4×2×2 = trunk trunk.stage2(%stage1) features=('stage2',)
  return stage1: stage1=%stage1"""


def test_the_text_before_and_after() -> None:
    graph = example({"images": {"stage1": None, "stage2": None}})
    cut = replace(graph, outputs={"stage1": graph.outputs["stage1"]})
    assert str(cut) == BEFORE
    result = Prune().run(cut)
    assert result.changed
    assert result.summary == "1 call removed"
    assert str(result.graph) == "\n".join(line for line in BEFORE.splitlines() if "%stage2" not in line)


def test_a_graph_without_dead_calls_is_left_as_it_is(small: dict[str, Any]) -> None:
    graph = raw(small)
    result = Prune().run(graph)
    assert not result.changed
    assert result.graph is graph
    assert run_passes(graph, (Prune(),)).summary == ()


def test_components_go_with_their_last_call(two_inputs: dict[str, Any]) -> None:
    graph = raw(two_inputs)
    cut = replace(graph, outputs={"image": graph.outputs["image"]})
    pruned = Prune().run(cut).graph
    assert not any(n.scope == "patches" for n in pruned.nodes.values())
    assert set(pruned.components) == {"trunk", "heads.image"}
    assert calls(graph, "heads.jigsaw.1") == ["jigsaw_1"], "the given graph is left as it is"
