"""Equal calls become one, if one call is the same as two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.passes._example import example
from graphmodel.passes.manager import run_passes
from graphmodel.passes.merge_calls import MergeCalls
from graphmodel.passes.pipeline import PIPELINE
from graphmodel.passes.prune import Prune
from tests.passes.conftest import calls, lines, raw

X = torch.randn(4, 3, 64, 64)


def twice(small: dict[str, Any], **params: Any) -> dict[str, Any]:
    """One head on one feature, under two names."""
    mapping = [{"from": "images.flatten", "head": "head", "as": name} for name in ("a", "b")]
    return {**small, "heads": {"head": {"mlp": {"dims": ["auto", 8, 4], **params}}}, "mapping": mapping}


def test_the_text_before_and_after() -> None:
    probe = {"probe": {"mlp": {"dims": ["auto", 2]}}}
    graph = example([{"from": "images.flatten", "head": "probe", "as": n} for n in "ab"], heads=probe)
    assert lines(graph, "a", "b") == [
        "%a: N×2 = head heads.probe(%flatten)",
        "%b: N×2 = head heads.probe(%flatten)",
        "return a: a=%a",
        "return b: b=%b",
    ]
    result = MergeCalls().run(graph)
    assert lines(result.graph, "a", "b") == [
        "%a: N×2 = head heads.probe(%flatten)",
        "return a: a=%a",
        "return b: b=%a",
    ]
    assert (result.changed, result.summary, result.notes) == (True, "1 module call runs once instead of again", ())


def test_the_same_head_on_the_same_feature_runs_once_with_the_same_numbers(small: dict[str, Any]) -> None:
    graph = run_passes(raw(twice(small)), (Prune(), MergeCalls()))
    assert len(calls(graph, "heads.head")) == 1
    model = graphmodel.compile(twice(small), seed=0).eval()
    one = graphmodel.compile({**twice(small), "mapping": {"images": {"flatten": "head"}}}, seed=0).eval()
    result = model(X)
    assert torch.equal(result["a"], one(X)["head"])
    assert torch.equal(result["b"], one(X)["head"])


@pytest.mark.parametrize(
    ("params", "reason"),
    [({"use_bn": True}, "changes its buffers in training mode"), ({"use_dropout": True}, "draws random numbers")],
)
def test_what_differs_between_one_call_and_two_is_kept_and_explained(
    small: dict[str, Any], params: dict[str, Any], reason: str, tmp_path: Any
) -> None:
    import yaml

    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(twice(small, **params)))
    graph = graphmodel.build_graph(graphmodel.load_spec(path))
    assert len(calls(graph, "heads.head")) == 2
    (note,) = graph.notes
    assert (note.code, note.severity) == ("GM401", "note")
    assert note.message.startswith(f"not merged: `heads.head` {reason}")
    assert note.span is not None
    assert note.span.file == str(path)


def test_running_statistics_move_once_for_each_call(small: dict[str, Any]) -> None:
    model = graphmodel.compile(twice(small, use_bn=True), seed=0)
    model(X)
    counts = [b for n, b in model.heads.named_buffers() if n.endswith("num_batches_tracked")]
    assert [int(c) for c in counts] == [2]


def test_a_frozen_module_draws_nothing_and_is_merged(small: dict[str, Any]) -> None:
    spec = {**twice(small, use_bn=True, use_dropout=True), "freeze": ["heads.head"]}
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    assert len(calls(graph, "heads.head")) == 1
    assert graph.notes == ()


class Noisy(nn.Module):
    """Draws without a module whose type would tell."""

    def __init__(self, params: Any) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x) if self.training else x


def test_random_numbers_are_found_in_the_code_of_a_module_and_not_by_its_type(small: dict[str, Any]) -> None:
    graphmodel.register_head("noisy", params=graphmodel.HeadParams)(Noisy)
    spec = {**twice(small), "heads": {"head": "noisy"}}
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    assert len(calls(graph, "heads.head")) == 2
    assert "draws random numbers" in graph.notes[0].message


def test_one_input_under_three_entries_is_one_trunk_pass(small: dict[str, Any]) -> None:
    layers = [{"from": f"images.{f}", "as": f} for f in ("res3", "res4", "flatten")]
    graph = run_passes(raw({**small, "heads": {}, "mapping": layers}), PIPELINE)
    assert len(calls(graph, "trunk.layer1")) == 1


def test_the_same_weights_on_two_inputs_stay_two_calls(two_inputs: dict[str, Any]) -> None:
    graph = run_passes(raw(two_inputs), PIPELINE)
    assert len(calls(graph, "trunk.layer1")) == 2
    assert len([c for c in graph.components if c == "trunk"]) == 1
