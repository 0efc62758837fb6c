from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphmodel import CompileError, load_spec
from graphmodel.diagnostics import Diagnostic


def findings(text: str, tmp_path: Path) -> list[Diagnostic]:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(CompileError) as caught:
        load_spec(path)
    return caught.value.diagnostics


def test_short_and_long_mapping_mean_the_same(small: dict[str, Any]) -> None:
    short = {**small, "mapping": {"images": {"res4": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["head"]}}}}
    long = {**small, "mapping": [{"from": "images.res4", "pool": {"adaptive_avg_pool2d": 1}, "head": "head"}]}
    a, b = load_spec(short).edges[0], load_spec(long).edges[0]
    assert (
        (a.head, a.output, a.sources[0].feature) == (b.head, b.output, b.sources[0].feature) == ("head", "head", "res4")
    )
    assert a.sources[0].pool is not None
    assert b.sources[0].pool is not None
    assert a.sources[0].pool.params == b.sources[0].pool.params == {"output_size": 1}


def test_without_a_mapping_every_head_reads_the_default_feature(small: dict[str, Any]) -> None:
    spec = load_spec({**small, "heads": {"a": "identity", "b": "identity"}})
    assert [(e.head, e.sources[0].feature) for e in spec.edges] == [("a", None), ("b", None)]


@pytest.mark.parametrize(("key", "value"), [("outputs", "[]"), ("mapping", "{}"), ("mapping", "[]")])
def test_a_model_without_an_output_is_refused(key: str, value: str, tmp_path: Path) -> None:
    all_findings = findings(f"inputs: {{images: [3, 32, 32]}}\ntrunk: resnet\n{key}: {value}\n", tmp_path)
    [found] = [d for d in all_findings if d.severity == "error"]
    assert (found.code, found.message, found.path) == ("GM209", "the model has no output", key)
    assert found.span is not None
    assert found.span.line == 3


def test_without_heads_the_feature_is_the_output(small: dict[str, Any]) -> None:
    spec = load_spec({**small, "heads": {}, "mapping": {"images": {"res4": None, "layer1.0.conv1": None}}})
    assert list(spec.outputs) == ["res4", "layer1_0_conv1"]


def test_output_names_are_unique_and_stable(small: dict[str, Any]) -> None:
    shared = {
        **small,
        "inputs": {"a": {"shape": [3, 8, 8]}, "b": {"shape": [3, 8, 8]}},
        "mapping": {"a": {"res2": "head", "res3": "head"}, "b": {"res2": "head"}},
    }
    assert list(load_spec(shared).outputs) == ["head_a_res2", "head_a_res3", "head_b"]


def test_views_spell_out_to_one_shape_per_tensor(small: dict[str, Any]) -> None:
    views = [{"count": 2, "shape": [3, 64, 64]}, {"shape": [3, 32, 32]}]
    spec = load_spec({**small, "inputs": {"crops": {"views": views}}})
    assert spec.inputs["crops"].views == ((3, 64, 64), (3, 64, 64), (3, 32, 32))


def test_shapes_from_the_caller_outrank_the_file(small: dict[str, Any]) -> None:
    assert load_spec(small, inputs={"images": (3, 32, 32)}).inputs["images"].shape == (3, 32, 32)
    views = load_spec(small, inputs={"images": [(3, 32, 32), (3, 16, 16)]}).inputs["images"]
    assert (views.shape, views.views) == (None, ((3, 32, 32), (3, 16, 16)))


def test_the_words_of_yaml_1_1_count_as_booleans(small: dict[str, Any]) -> None:
    assert load_spec({**small, "trunk": {"name": "resnet", "freeze": "yes"}}).trunks["trunk"].freeze is True


def test_overrides_reach_any_value(small: dict[str, Any]) -> None:
    assert load_spec(small, ["trunk.depth=34", "name=other"]).trunks["trunk"].params["depth"] == 34


def test_everything_wrong_is_reported_at_once_in_source_order(tmp_path: Path) -> None:
    found = findings(
        "graphmodel: 2\nnme: x\ninputs:\n  images: {shap: [3, 8, 8]}\ntrunk: 5\nheads:\n  a: {mlp: 3}\n", tmp_path
    )
    assert [(d.code, d.span.line) for d in found if d.span] == [
        ("GM202", 1), ("GM201", 2), ("GM201", 4), ("GM202", 5), ("GM202", 7),
    ]  # fmt: skip
    assert "did you mean `name`" in found[1].help
    assert "did you mean `shape`" in found[2].help


@pytest.mark.parametrize(
    ("change", "code", "near"),
    [
        ({"mapping": {"images": {"res5": "haed"}}}, "GM206", "head"),
        ({"mapping": {"image": {"res5": "head"}}}, "GM207", "images"),
        ({"mapping": [{"from": "images.res5", "head": "head", "as": "for"}]}, "GM204", "for_"),
        ({"heads": {"type": "identity"}}, "GM204", "type_head"),
        ({"outputs": ["hed"]}, "GM209", "head"),
        ({"trunks": {"a": "resnet"}}, "GM202", "trunks"),
        ({"mapping": {"images": {"res5": {"pool": {"avgpool": 2}, "head": "head"}}}}, "GM202", "avg_pool2d"),
        ({"mapping": {"images": {"res5": {"pool": {"avg_pool2d": {"size": 2}}, "head": "head"}}}}, "GM201", "stride"),
        ({"inputs": {"images": {"shape": [3, 8, 8], "with": ["mask"]}}}, "GM207", ""),
        ({"inputs": {"images": {"shape": [3, 8, 8], "views": [{"shape": [3, 8, 8]}]}}}, "GM202", "views"),
        ({"mapping": [{"from": ["images.res5", "x.res4"], "head": "head"}]}, "GM207", "images"),
    ],
)
def test_wrong_names_get_the_nearest_right_one(
    small: dict[str, Any], change: dict[str, Any], code: str, near: str
) -> None:
    with pytest.raises(CompileError) as caught:
        load_spec({**small, **change})
    matching = [d for d in caught.value.diagnostics if d.code == code]
    assert matching, str(caught.value)
    assert near in matching[0].help + matching[0].message


def test_heads_and_inputs_that_nothing_uses_are_left_out_with_a_warning(small: dict[str, Any]) -> None:
    spec = load_spec(
        {
            **small,
            "heads": {**small["heads"], "spare": "identity"},
            "inputs": {**small["inputs"], "extra": {"shape": [3, 8, 8]}},
            "mapping": {"images": {"flatten": "head"}},
        }
    )
    assert (list(spec.heads), list(spec.inputs)) == (["head"], ["images"])
    assert sorted(d.message.split("`")[1] for d in spec.notes if d.severity == "warning") == ["extra", "spare"]


def test_outputs_select_order_and_nest(two_inputs: dict[str, Any]) -> None:
    assert load_spec({**two_inputs, "outputs": [["jigsaw"], "image"]}).outputs == (("jigsaw",), "image")
    only = load_spec({**two_inputs, "outputs": ["image"]})
    assert (list(only.heads), list(only.inputs)) == (["image"], ["images"])


def test_the_callers_mapping_is_never_changed(two_inputs: dict[str, Any]) -> None:
    import copy

    before = copy.deepcopy(two_inputs)
    load_spec(two_inputs, ["trunk.depth=34"], inputs={"images": (3, 8, 8)})
    assert two_inputs == before


def test_the_former_key_of_the_grouping_of_views_names_the_new_one() -> None:
    views = {"views": [{"count": 2, "shape": [3, 64, 64]}], "passes": "crop"}
    with pytest.raises(CompileError) as caught:
        load_spec({"inputs": {"crops": views}, "trunk": "resnet"})
    assert [(d.code, d.path, d.help) for d in caught.value.diagnostics] == [
        ("GM201", "inputs.crops.passes", "it is now called `grouping`")
    ]


@pytest.mark.parametrize("source", [3.5, None, object()])
def test_what_is_not_a_spec_is_refused(source: Any) -> None:
    with pytest.raises(CompileError, match="a spec is a path, several paths, a mapping or a `ModelSpec`, not"):
        load_spec(source)
