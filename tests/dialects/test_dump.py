"""A spec that is written and read again is the same spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.spec.document import read_text

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))


def content(spec: graphmodel.ModelSpec) -> dict[str, Any]:
    """What a spec says, without the dialect it was written in."""
    return spec.model_dump(exclude={"dialect"})


def again(spec: graphmodel.ModelSpec) -> graphmodel.ModelSpec:
    """The spec after it was written as YAML text and read."""
    return graphmodel.load_spec(read_text(to_yaml(dump(spec))).data)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_examples_survive_a_round_trip(path: Path) -> None:
    spec = graphmodel.load_spec(path)
    assert content(again(spec)) == content(spec)


RICH: dict[str, Any] = {
    "name": "everything",
    "inputs": {
        "images": {"shape": [3, 64, 64], "dtype": "float16"},
        "crops": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"shape": [3, 32, 32]}], "grouping": "crop"},
        "mask": {"shape": [4, 4], "dtype": "bool"},
        "masked": {"shape": [3, 64, 64], "with": ["mask"]},
        "table": {"shape": [], "trunk": "none", "dtype": "int32"},
    },
    "trunks": {
        "student": {
            "name": "resnet",
            "depth": 18,
            "width_multiplier": 0.25,
            "input_type": "bgr",
            "memory_format": "channels_last",
        },
        "teacher": {
            "name": "resnet",
            "depth": 18,
            "width_multiplier": 0.25,
            "freeze": True,
            "pretrained": "teacher.pth",
        },
        "third": {"copy": "student", "zero_init_residual": True, "freeze": False, "memory_format": "contiguous"},
    },
    "heads": {
        "a": {"mlp": {"dims": ["auto", 3]}},
        "b": [{"mlp": {"dims": ["auto", 3]}}, "identity"],
        "c": "identity",
        "d": [""],
        "e": {"copy": "b", "freeze": False},
    },
    "head_defaults": {"bn_momentum": 0.2},
    "mapping": [
        {"from": "images.student.flatten", "head": "a", "as": "first"},
        {"from": ["images.student.res4", {"from": "images.teacher.res4", "pool": {"avg_pool2d": 2}}], "combine": "sum"},
        {"from": "crops.teacher.layer1.0.conv1", "pool": {"adaptive_max_pool2d": [2, 2]}, "flatten": True, "head": "b"},
        {"from": ["first", {"from": "table", "detach": True}, "b.part"], "as": "joined", "resize": "largest"},
        {"from": "joined", "resize": {"size": [3, 4], "mode": "area"}, "normalize": True, "as": "small"},
        {"from": "images.third.flatten", "head": "e"},
        {"from": "masked.student", "head": "c", "layout": "nchw", "tokens": "mean", "norm": False},
    ],
    "freeze": ["heads.b", "*.bn*"],
    "outputs": [["first"], "b", "joined", "small", "c", "e"],
    "returns": "list",
    "checkpoint": 2,
    "weights": {"file": "a.pth", "key": "model", "skip": ["x"], "remove_prefix": "module.", "append_prefix": "trunk."},
}


def test_everything_that_a_spec_can_say_survives_a_round_trip() -> None:
    spec = graphmodel.load_spec(RICH)
    assert content(again(spec)) == content(spec)


def test_a_resolved_spec_builds_the_same_graph(two_inputs: dict[str, Any]) -> None:
    two_inputs["freeze"] = ["heads.jigsaw"]
    graph = graphmodel.build_graph(graphmodel.load_spec(two_inputs))
    assert str(graphmodel.build_graph(again(resolved_spec(graph)))) == str(graph)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_resolved_example_builds_the_same_graph(path: Path) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec(path))
    assert str(graphmodel.build_graph(again(resolved_spec(graph)))) == str(graph)


def test_a_feature_that_begins_with_the_trunks_name_is_not_taken_for_the_trunk() -> None:
    spec = graphmodel.load_spec(
        {"inputs": {"x": [3, 8, 8]}, "trunk": "resnet", "mapping": {"x": {"trunk.trunk.layer1": None}}}
    )
    assert spec.edges[0].sources[0].feature == "trunk.layer1"
    assert content(again(spec)) == content(spec)


@pytest.mark.parametrize(
    "value",
    ["no", "1e-5", "1_000", "0o17", "0x1f", "null", "~", "true", "", " a", "a: b", "a #b", "*a", "&a", "it's", "-",
     "- a", "l1\nl2", "ü", "2026-11-24", "1:30", "[", "{a", "a, b]", "%x", "@x", "?", "<<", "=", "\t", "a\\b", '"q"',
     "!t",
     1, -3, 0.1, 1e-30, 1e300, float("inf"), True, False, None, [], {}, [1, [2, [3]]], [{"a": 1}, [{"b": [2]}]],
     {"k": {"l": {}}}, list(range(80)), {"true": 1, "~": 2, "1": 3, "a b": 4, "'": 5, "x:y": 6}, {"1" * 5000: 1, "b": 2}, [{"é\0" * 900: {"c": [1]}}],
     [[1], {"k" * 300: {}}]],
)  # fmt: skip
def test_any_plain_value_is_read_back_as_it_was_written(value: Any) -> None:
    data = {"a": value, "list": [value, "x"], "deep": {"er": {"still": value}}}
    read = read_text(to_yaml(data)).data
    assert read == data
    assert type(read["a"]) is type(value)


def test_comments_stand_behind_their_lines_and_change_nothing() -> None:
    text = to_yaml({"trunk": {"name": "resnet", "depth": 50}}, lambda path: "why" if path == ("trunk", "depth") else "")
    assert text == "trunk:\n  name: resnet\n  depth: 50  # why\n"


def test_dumping_leaves_the_spec_alone(two_inputs: dict[str, Any]) -> None:
    spec = graphmodel.load_spec(two_inputs)
    before = content(spec)
    dump(spec)["heads"]["image"]["mlp"]["dims"].append(3)
    assert content(spec) == before


def test_a_slice_says_what_it_holds_and_builds_it_again() -> None:
    document = {
        "inputs": {"images": [3, 64, 64], "patches": [3, 32, 32]},
        "trunks": {
            "student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
            "teacher": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        },
        "heads": {"a": {"mlp": {"dims": ["auto", 3]}}, "b": [{"mlp": {"dims": ["auto", 4]}}, "identity"]},
        "mapping": [
            {"from": "images.student.flatten", "head": "a", "as": "first"},
            {"from": "patches.teacher.flatten", "head": "b", "as": "second"},
        ],
        "freeze": ["heads.b", "trunks.student.conv1", "*.bn1.*"],
    }
    model = graphmodel.compile(document, seed=0).eval()
    part = model.slice(outputs=["first"])
    spec = resolved_spec(part.model_graph)
    assert list(spec.inputs) == ["images"]
    assert list(spec.trunks) == ["student"]
    assert list(spec.heads) == ["a"]
    rebuilt = graphmodel.compile(again(spec), seed=1).eval()
    rebuilt.load_state_dict(part.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images, torch.rand(1, 3, 32, 32))["first"]
        assert torch.equal(rebuilt(images)["first"], expected)
    assert not any(p.requires_grad for p in rebuilt.trunks.student.conv1.parameters())
