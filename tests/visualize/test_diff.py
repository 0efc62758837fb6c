"""What differs between two models is said once, in words and as data; what does not differ is not mentioned."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torchvision

import graphmodel
from graphmodel.comparison import Difference, diff
from graphmodel.visualize import Options, Picture, compare_pictures, picture_of
from tests.visualize.conftest import NATIVE, drawn, example_graph, probes


def between(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    return diff(*(graphmodel.build_graph(graphmodel.load_spec(spec)) for spec in (one, other)))


def texts(found: Difference, *what: str) -> list[str]:
    return [c.text for c in found.changes if not what or c.what in what]


@pytest.mark.parametrize("name", NATIVE)
def test_a_model_does_not_differ_from_itself(name: str) -> None:
    found = diff(example_graph(name), example_graph(name))
    assert found.same
    assert str(found) == "no difference"


def test_what_is_only_written_otherwise_does_not_differ(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["name"] = "another name"
    other["heads"]["head"]["mlp"]["dims"] = [512, 10]  # `auto` is 512
    other["trunk"]["width_multiplier"] = 1  # the default
    other["mapping"] = [{"from": "images.pre_logits", "head": "head", "as": "head"}]  # an alias of the default feature
    assert between(small, other).same


def test_inputs(two_inputs: dict[str, Any], crops: dict[str, Any]) -> None:
    other = copy.deepcopy(two_inputs)
    other["inputs"]["images"] = {"shape": [3, 96, 96], "dtype": "float16"}
    found = texts(between(two_inputs, other), "input")
    assert found == ["input `images`: 3×64×64 became 3×96×96", "input `images`: dtype float32 became float16"]
    more = copy.deepcopy(crops)
    more["inputs"]["crops"]["views"][1]["count"] = 4
    found = texts(between(crops, more), "input")
    assert found == ["input `crops`: views 2 × 3×64×64, 3 × 3×32×32 became views 2 × 3×64×64, 4 × 3×32×32"]


def test_inputs_in_another_order(two_inputs: dict[str, Any]) -> None:
    other = copy.deepcopy(two_inputs)
    other["inputs"] = dict(reversed(two_inputs["inputs"].items()))
    other["mapping"] = dict(reversed(two_inputs["mapping"].items()))
    found = between(two_inputs, other)
    assert texts(found, "input") == ["the inputs come in another order: patches, images; it was images, patches"]


def test_trunks(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["trunk"]["depth"] = 34
    found = between(small, other)
    sizes = [sum(p.numel() for n, p in m.named_parameters() if not n.startswith("fc.")) for m in
             (torchvision.models.resnet18(), torchvision.models.resnet34())]  # fmt: skip
    assert texts(found, "trunk") == [
        "trunk: depth 18 became 34",
        f"trunk: {sizes[0]:,} parameters became {sizes[1]:,} ({sizes[1] - sizes[0]:+,})",
    ]
    assert texts(found, "feature", "head", "output", "stage", "input") == []
    (total, _) = [c for c in found.changes if c.what == "total"]
    assert total.after - total.before == sizes[1] - sizes[0]


def test_freezing(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["trunk"]["freeze"] = True
    found = between(small, other)
    reference = torchvision.models.resnet18()
    size = sum(p.numel() for n, p in reference.named_parameters() if not n.startswith("fc."))
    assert texts(found, "trunk") == [f"trunk: 0 of its parameters train, {size:,} did"]
    (change,) = [c for c in found.changes if c.what == "total"]
    assert (change.name, change.before - change.after) == ("trainable parameters", size)


def test_features_and_what_reads_them(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["mapping"] = {"images": {"res4": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["head"]}}}
    found = between(small, other)
    assert texts(found, "feature") == [
        "feature `images.flatten` (N×512) is gone",
        "feature `images.res4` (N×256×4×4) is new",
    ]
    assert texts(found, "stage") == ["trunk no longer runs `layer4`, `avgpool`"]
    (route,) = texts(found, "output")
    assert route.startswith("output `head` is images.res4 pool=op adaptive_avg_pool2d")
    assert route.endswith("→ head, it was images.flatten → head")
    assert "head `head`, mlp: dims [512, 10] became [256, 10]" in texts(found, "head")


def test_heads(two_inputs: dict[str, Any]) -> None:
    other = copy.deepcopy(two_inputs)
    other["heads"]["jigsaw"][2] = {"mlp": {"dims": ["auto", 16], "use_bn": True}}
    other["heads"]["other"] = other["heads"].pop("image")
    other["mapping"]["images"] = {"flatten": "other"}
    found = between(two_inputs, other)
    assert texts(found, "head") == [
        "head `image` (mlp) is gone",
        "head `jigsaw`, module 2 (mlp): dims [36, 8] became [36, 16]",
        "head `jigsaw`, module 2 (mlp): use_bn no became yes",
        "head `jigsaw`: 2,348 parameters became 2,644 (+296)",
        "head `other` (mlp) is new",
    ]
    assert texts(found, "output") == [
        "output `image` (N×8) is gone",
        "output `jigsaw`: N/9×8 became N/9×16",
        "output `other` (N×8) is new",
    ]


def test_a_chain_of_other_modules(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["heads"]["head"] = [{"mlp": {"dims": ["auto", 7]}}, {"mlp": {"dims": ["auto", 10]}}]
    assert "head `head`: mlp became mlp → mlp" in texts(between(small, other), "head")


def test_the_form_and_order_of_the_result(two_inputs: dict[str, Any]) -> None:
    other = copy.deepcopy(two_inputs)
    other |= {"returns": "tuple", "outputs": ["jigsaw", "image"]}
    assert texts(between(two_inputs, other)) == [
        "the result is a tuple, it was a dict",
        "the outputs come in another order: jigsaw, image; it was image, jigsaw",
    ]


def test_shapes_of_stages_are_told_together(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["inputs"]["images"]["shape"] = [3, 128, 128]
    (text,) = texts(between(small, other), "stage")
    assert text.startswith("trunk on `images`: other shapes in ")
    assert "conv1 N×64×32×32 became N×64×64×64" in text
    assert text.endswith(" more")


def test_the_data_form_is_plain_and_whole(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["trunk"]["depth"] = 34
    found = between(small, other)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["same"] is False
    first = data["changes"][0]
    assert (first["kind"], first["what"], first["name"], first["before"], first["after"]) == (
        "changed", "trunk", "trunk", 18, 34,
    )  # fmt: skip
    assert len(str(found).splitlines()) == len(data["changes"])


# -- pictures ---------------------------------------------------------------------------------------------------------


def states(picture: Picture) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in (*picture.boxes, *picture.frames):
        found.setdefault(part.state, set()).add(part.title)
    return found


def test_a_picture_marks_what_changed(two_inputs: dict[str, Any]) -> None:
    other = copy.deepcopy(two_inputs)
    other["trunk"]["depth"] = 34
    other["heads"]["new"] = other["heads"].pop("image")
    other["mapping"]["images"] = {"res5": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["new"]}}
    both = compare_pictures(drawn(two_inputs), drawn(other))
    found = states(both)
    assert found["removed"] == {"image"}
    assert found["added"] == {"new", "adaptive_avg_pool2d 1×1"}
    assert found["changed"] == {"trunk", "layer1", "layer2", "layer3", "layer4"}
    assert found["same"] >= {"images", "patches", "jigsaw", "siamese_concat_view"}
    (layer1,) = [b for b in both.boxes if b.title == "layer1"]
    assert layer1.lines[0] == "3 × BasicBlock"
    assert layer1.lines[1].startswith("was 2 × BasicBlock, ")
    gone = [a for a in both.arrows if a.state == "removed"]
    assert [a.lines for a in gone if a.target == "head:heads.image"] == [("N×512",)]
    assert {a.state for a in both.arrows if a.target == "head:heads.new"} == {"added"}


def test_changed_shapes_stand_on_their_arrows(small: dict[str, Any]) -> None:
    other = copy.deepcopy(small)
    other["inputs"]["images"]["shape"] = [3, 128, 128]
    both = compare_pictures(drawn(small), drawn(other))
    (entering,) = [a for a in both.arrows if a.source == "input:images"]
    assert entering.state == "changed"
    assert entering.lines == ("N×3×128×128", "was N×3×64×64")
    (last,) = [a for a in both.arrows if a.target == "output:head"]
    assert last.state == "same"


def test_the_same_model_gives_a_picture_without_marks(two_inputs: dict[str, Any]) -> None:
    both = compare_pictures(drawn(two_inputs), drawn(two_inputs))
    assert set(states(both)) == {"same"}
    assert {a.state for a in both.arrows} == {"same"}
    assert both.lines == drawn(two_inputs).lines


def test_a_stack_that_grew_is_one_changed_box() -> None:
    both = compare_pictures(drawn(probes(1, 5)), drawn(probes(1, 8)))
    (head,) = [b for b in both.boxes if b.kind == "head"]
    assert (head.state, head.count) == ("changed", 8)
    assert "×5" in head.lines[-1]


def test_looks_can_be_chosen(two_inputs: dict[str, Any]) -> None:
    look = Options(sharing="split")
    both = compare_pictures(picture_of(two_inputs, look), picture_of(two_inputs, look))
    assert len([f for f in both.frames if f.kind == "trunk"]) == 2
