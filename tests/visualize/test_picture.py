"""The picture of a graph shows all of it, folded as asked, with the numbers that torch gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import networkx as nx
import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import graphmodel
from graphmodel.graph.types import ModelGraph
from graphmodel.visualize import Box, Options, Picture, picture_of
from graphmodel.visualize.compose import LAYERS, compose
from graphmodel.visualize.group import QUIET, joins_views, operation_name
from graphmodel.visualize.inside import with_layers
from tests.conftest import EXAMPLES
from tests.effort import RealTensors
from tests.visualize.conftest import NATIVE, drawn, example_graph, probes
from tests.visualize.toy import ToyTransformer

LOOKS = [
    Options(),
    Options(sharing="split"),
    Options(depth=0),
    Options(depth=3, stack=0),
    Options(ghosts=True),
]


CASES = [
    pytest.param(
        name,
        look,
        # Opened into layers, a picture has hundreds of boxes.
        marks=[pytest.mark.slow] if look.depth == 3 and name not in ("pirl", "vit_layers") else [],
        id=f"{name}-{look}",
    )
    for name in NATIVE
    for look in LOOKS
]


def titles(picture: Picture, kind: str) -> list[str]:
    return [b.title for b in picture.boxes if b.kind == kind]


@cache
def look_at(name: str, look: Options) -> Picture:
    """An example's picture without FLOPs, which take the longest and are tested on their own."""
    return compose(example_graph(name), look, {})


@cache
def layers_of(name: str) -> ModelGraph:
    """An example's graph, opened into layers."""
    return with_layers(example_graph(name))[0]


def one(picture: Picture, title: str) -> Box:
    (box,) = [b for b in picture.boxes if b.title == title]
    return box


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- nothing is lost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "look"), CASES)
def test_every_call_lies_in_one_box_and_every_edge_in_an_arrow_or_a_box(name: str, look: Options) -> None:
    graph = example_graph(name) if look.depth < LAYERS else layers_of(name)
    picture = look_at(name, look)
    owner = {member: box.id for box in picture.boxes for member in box.members}
    assert sum(len(b.members) for b in picture.boxes) == len(owner)
    shown = {m for m in owner if not m.startswith("output:")} & set(graph.nodes)
    assert shown == {n for n, node in graph.nodes.items() if not joins_views(graph, node)}
    outputs = {f"output:{key}" for output in graph.outputs.values() for key in output.parts}
    assert outputs <= set(owner)
    arrows = {edge for a in picture.arrows for edge in a.members}
    for target, node in graph.nodes.items():
        for source in node.refs():
            for start in graph.nodes[source].refs() if source not in owner else [source]:
                if target in owner:
                    assert (start, target) in arrows or owner[start] == owner[target]


@pytest.mark.parametrize(("name", "look"), CASES)
def test_arrows_run_in_one_direction(name: str, look: Options) -> None:
    picture = look_at(name, look)
    drawing = nx.DiGraph([(a.source, a.target) for a in picture.arrows])
    assert nx.is_directed_acyclic_graph(drawing)
    assert set(drawing) <= {b.id for b in picture.boxes}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pirl", "swav", "teacher_student", "vit_layers"])
def test_parameters_and_flops_are_those_of_the_module(name: str) -> None:
    model = graphmodel.compile(EXAMPLES / "native" / f"{name}.yaml", device="meta").eval()
    rows = {"patches": 9}
    inputs = [
        torch.empty(rows.get(i.name, 1), *i.shape, device="meta")
        if i.views is None
        else [torch.empty(1, *v, device="meta") for v in i.views]
        for i in model.model_graph.inputs.values()
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    picture = picture_of(model)
    for shown in (picture, picture_of(model, Options(sharing="split", depth=3))):
        assert sum(b.flops for b in shown.boxes) == counter.get_total_flops()
    assert sum(f.parameters for f in picture.frames) + sum(b.parameters for b in picture.inside("")) == size(model)


# -- trunks -----------------------------------------------------------------------------------------------------------


def test_stages_bear_their_own_parameters(two_inputs: dict[str, Any]) -> None:
    picture, reference = drawn(two_inputs), torchvision.models.resnet18()
    assert titles(picture, "stage") == [
        "conv1 · bn1 · relu · maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool · flatten",
    ]  # fmt: skip
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        assert one(picture, stage).parameters == size(getattr(reference, stage))
    assert one(picture, "conv1 · bn1 · relu · maxpool").parameters == size(reference.conv1) + size(reference.bn1)
    assert one(picture, "layer2").lines == ("2 × BasicBlock",)


def test_merged_passes_share_boxes_and_keep_their_own_arrows(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs)
    assert [f.title for f in picture.frames if f.kind == "trunk"] == ["trunk"]
    between = [a for a in picture.arrows if a.target == one(picture, "layer2").id]
    assert {(picture.flows[a.flow], *a.lines) for a in between} == {
        ("images", "N×64×16×16"),
        ("patches", "N×64×8×8"),
    }
    into_heads = {
        a.target: picture.flows[a.flow] for a in picture.arrows if a.source == one(picture, "avgpool · flatten").id
    }
    assert into_heads == {"head:heads.image": "images", "head:heads.jigsaw.0": "patches"}


def test_split_passes_have_a_frame_each(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs, sharing="split")
    trunks = [f for f in picture.frames if f.kind == "trunk"]
    assert [f.title for f in trunks] == ["trunk · images", "trunk · patches"]
    assert all("weights shared by 2 passes" in f.lines for f in trunks)
    assert trunks[0].flops != trunks[1].flops
    for frame in trunks:
        inside = {b.id for b in picture.inside(frame.id)}
        assert len({a.flow for a in picture.arrows if {a.source, a.target} <= inside}) == 1


def test_views_are_counted_and_named_on_their_arrows(crops: dict[str, Any]) -> None:
    picture = drawn(crops)
    assert one(picture, "crops").lines == ("2 views of 3×64×64", "3 views of 3×32×32")
    entering = [a.lines for a in picture.arrows if a.source == "input:crops"]
    assert entering == [("views 0–1", "2N×3×64×64"), ("views 2–4", "3N×3×32×32")]
    assert list(picture.flows.values()) == ["crops 0–1 (64×64)", "crops 2–4 (32×32)"]
    assert [f.badges for f in picture.frames] == [("grouped_views",)]


def test_interleaved_views_are_regrouped_in_one_box(crops: dict[str, Any]) -> None:
    shapes = [[3, 64, 64], [3, 32, 32], [3, 64, 64]]
    crops["inputs"]["crops"] = {"views": [{"shape": s} for s in shapes]}
    picture = drawn(crops)
    assert len(titles(picture, "op")) == 1
    entering = {a.lines for a in picture.arrows if a.source == "input:crops"}
    assert entering >= {("views 0, 2", "2N×3×64×64"), ("view 1", "N×3×32×32")}


def test_several_trunks_stand_side_by_side(two_inputs: dict[str, Any]) -> None:
    two_inputs["trunks"] = {
        "student": two_inputs.pop("trunk"),
        "teacher": {"name": "resnet", "depth": 34, "freeze": True},
    }
    two_inputs["mapping"] = [
        {"from": "images.student.flatten", "head": "image"},
        {"from": "images.teacher.res4", "as": "target"},
    ]
    picture = drawn(two_inputs)
    assert [(f.title, f.badges) for f in picture.frames] == [("student", ()), ("teacher", ("frozen",))]
    assert picture.frames[1].trainable == 0 < picture.frames[1].parameters


def test_a_frozen_trunk_is_marked_down_to_its_operations(small: dict[str, Any]) -> None:
    small["trunk"]["freeze"] = True
    picture = drawn(small)
    assert {b.badges for b in picture.boxes if b.kind == "stage"} == {("frozen",)}
    assert all(picture.badges_of(b) == () for b in picture.boxes)  # the frame says it once
    (head,) = [b for b in picture.boxes if b.kind == "head"]
    assert head.badges == ()
    assert head.trainable == head.parameters > 0


def test_a_frozen_stage_alone_bears_the_badge_itself(small: dict[str, Any]) -> None:
    picture = drawn(small | {"freeze": ["trunk.layer1"]})
    assert [b.title for b in picture.boxes if picture.badges_of(b)] == ["layer1"]
    assert picture.frames[0].badges == ()


def test_features_are_named_where_they_leave(small: dict[str, Any]) -> None:
    small["mapping"] = {"images": {"res3": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["head"]}, "res5": None}}
    picture = drawn(small)
    assert {b.title: b.features for b in picture.boxes if b.features} == {"layer2": ("res3",), "layer4": ("res5",)}
    assert titles(picture, "op") == ["adaptive_avg_pool2d 1×1"]


# -- folding ----------------------------------------------------------------------------------------------------------


def test_equal_blocks_fold_and_depth_opens_them() -> None:
    spec = probes(1, 1)
    spec["mapping"] = {"images": {"block11": ["layer0_probe0"]}}
    folded, opened = drawn(spec), drawn(spec, depth=2)
    box = one(folded, "blocks 0–11")
    reference = ToyTransformer()
    assert (box.repeats, box.parameters) == (12, size(reference.blocks))
    assert box.lines == ("Block",)
    assert [t for t in titles(opened, "stage") if t.startswith("blocks")] == [f"blocks.{i}" for i in range(12)]
    assert one(opened, "blocks.3").parameters == size(reference.blocks[3])


def test_a_feature_ends_a_row_of_equal_blocks() -> None:
    spec = probes(1, 1)
    spec["mapping"] = {"images": {"block5": ["layer0_probe0"], "block11": None}}
    assert [(b.title, b.repeats) for b in drawn(spec).boxes if b.repeats > 1] == [("blocks 0–5", 6), ("blocks 6–11", 6)]


def test_small_calls_fold_around_the_class_token(blocks: dict[str, Any]) -> None:
    picture = drawn(blocks)
    first = picture.inside("trunk:trunk")[0]
    assert first.title.startswith("embed")
    assert first.parameters == size(ToyTransformer().embed) + 8 + 17 * 8
    assert titles(drawn(blocks, depth=3), "stage").count("cls_token") == 1


def test_a_value_that_two_features_are_made_of_keeps_its_own_box(blocks: dict[str, Any]) -> None:
    blocks["mapping"]["images"]["norm"] = None
    picture = drawn(blocks)
    (norm,) = [b for b in picture.boxes if b.features == ("norm",)]
    (last,) = [b for b in picture.boxes if b.features == ("last",)]
    assert norm.title == "norm"
    assert [a.lines for a in picture.arrows if a.source == norm.id] == [("N×17×8",)] * 2
    assert [a.lines for a in picture.arrows if a.source == last.id] == [("N×8",)]


def test_the_whole_trunk_is_one_box_at_depth_zero(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs, depth=0)
    (trunk,) = [b for b in picture.boxes if b.kind == "stage"]
    assert (trunk.title, trunk.lines, trunk.features) == ("trunk", ("resnet · depth 18",), ("flatten",))
    assert trunk.parameters == size(torchvision.models.resnet18()) - size(torchvision.models.resnet18().fc)


def test_equal_heads_lie_in_a_stack() -> None:
    picture = drawn(probes(2, 30))
    stacks = [(b.kind, b.title, b.count) for b in picture.boxes if b.count > 1]
    assert stacks == [
        ("head", "layer0_probe0 … layer0_probe29", 30),
        ("head", "layer1_probe0 … layer1_probe29", 30),
        ("output", "layer0_probe0 … layer0_probe29", 30),
        ("output", "layer1_probe0 … layer1_probe29", 30),
    ]
    assert len(picture.boxes) < 14
    stack = next(b for b in picture.boxes if b.count > 1)
    assert stack.parameters == 30 * (8 * 3 + 3)
    assert len(stack.card["heads"]) == 30


def test_heads_of_other_shapes_and_few_heads_do_not_stack() -> None:
    assert all(b.count == 1 for b in drawn(probes(1, 6, unlike=True)).boxes)
    assert all(b.count == 1 for b in drawn(probes(1, 3)).boxes)
    assert all(b.count == 1 for b in drawn(probes(1, 6), stack=0).boxes)
    assert [b.count for b in drawn(probes(1, 2), stack=2).boxes if b.count > 1] == [2, 2]


def test_chains_stack_module_by_module() -> None:
    spec = probes(1, 5)
    for head in spec["heads"]:
        spec["heads"][head] = [{"mlp": {"dims": ["auto", 6]}}, {"mlp": {"dims": ["auto", 3]}}]
    picture = drawn(spec)
    assert [(b.kind, b.count) for b in picture.boxes if b.count > 1] == [("head", 5), ("head", 5), ("output", 5)]
    assert [f.title for f in picture.frames if f.kind == "head"] == ["layer0_probe0 … layer0_probe4"]


def test_a_shared_head_is_one_box(two_inputs: dict[str, Any]) -> None:
    two_inputs["mapping"] = [
        {"from": "images.flatten", "head": "image", "as": "a"},
        {"from": "patches.flatten", "head": "image", "as": "b"},
    ]
    picture = drawn(two_inputs)
    (head,) = [b for b in picture.boxes if b.kind == "head"]
    assert len([a for a in picture.arrows if a.target == head.id]) == 2
    assert sorted(a.target for a in picture.arrows if a.source == head.id) == ["output:a", "output:b"]


def test_a_head_with_several_tensors_has_an_output_for_each(crops: dict[str, Any]) -> None:
    picture = drawn(crops)
    assert titles(picture, "output") == ["head.embedding", "head.prototypes0"]
    leaving = {a.target: a.lines for a in picture.arrows if a.source == "head:heads.head"}
    assert leaving == {"output:head.embedding": ("5N×16",), "output:head.prototypes0": ("5N×5",)}


# -- ghosts -----------------------------------------------------------------------------------------------------------


def test_ghosts_are_what_the_model_leaves_out_of_its_trunk(small: dict[str, Any]) -> None:
    small["mapping"] = {"images": {"res3": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["head"]}}}
    reference = torchvision.models.resnet18()
    picture = drawn(small, ghosts=True)
    ghosts = [b for b in picture.boxes if b.ghost]
    assert [(b.title, b.parameters) for b in ghosts] == [
        ("layer3", size(reference.layer3)),
        ("layer4", size(reference.layer4)),
        ("fc", size(reference.fc)),
    ]
    assert [a.lines for a in picture.arrows if a.ghost] == [("N×128×8×8",), (), ()]  # nothing computes the others
    assert picture.lines == drawn(small).lines  # the sums are the model's
    assert not any(b.ghost for b in drawn(small).boxes)


def test_ghosts_of_nested_modules_follow_the_pass_that_goes_furthest() -> None:
    spec = probes(1, 1)
    spec["inputs"]["patches"] = {"shape": [3, 16, 16]}
    spec["mapping"] = {"images": {"block3": ["layer0_probe0"]}, "patches": {"block1": None}}
    picture = drawn(spec, ghosts=True)
    assert [b.title for b in picture.boxes if b.ghost] == ["blocks 4–11", "norm · classifier"]
    assert [(a.source, len(a.members)) for a in picture.arrows if a.ghost] == [
        (one(picture, "blocks 2–3").id, 1), (one(picture, "blocks 4–11").id, 1),
    ]  # fmt: skip


def test_a_trunk_without_unused_parts_has_no_ghosts(small: dict[str, Any]) -> None:
    assert [b.title for b in drawn(small, ghosts=True, depth=3).boxes if b.ghost] == ["fc"]
    whole = drawn(small, ghosts=True, depth=0)
    assert not any(b.ghost for b in whole.boxes)
    assert whole.boxes == drawn(small, depth=0).boxes


# -- labels -----------------------------------------------------------------------------------------------------------


def test_cards_tell_where_a_box_comes_from(two_inputs: dict[str, Any], tmp_path: Any) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "inputs: {images: {shape: [3, 64, 64]}}\ntrunk: {name: resnet, depth: 18}\n"
        "heads:\n  probe: {mlp: {dims: [auto, 10]}}\n"
    )
    picture = picture_of(file)
    card = one(picture, "layer1").card
    assert card["paths"] == ["trunk.layer1"]
    assert card["yaml"] == [{"place": f"{file}:2:8", "text": "trunk: {name: resnet, depth: 18}"}]
    assert card["contents"] == [
        [n, "BasicBlock", size(m)] for n, m in torchvision.models.resnet18().layer1.named_children()
    ]
    (head,) = [b for b in picture.boxes if b.kind == "head"]
    assert head.card["yaml"][0]["text"] == "probe: {mlp: {dims: [auto, 10]}}"
    assert head.card["settings"]["dims"] == [512, 10]
    (read,) = head.card["reads"]
    assert read.endswith(": N×512")


def test_a_picture_is_plain_data(crops: dict[str, Any]) -> None:
    import json

    data = json.loads(json.dumps(drawn(crops).to_dict()))
    assert data["title"] == "crops"
    assert {b["kind"] for b in data["boxes"]} == {"input", "stage", "op", "head", "output"}


def test_what_a_caller_gives_is_drawn_too(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, trunks={"trunk": torchvision.models.resnet18()})
    picture = picture_of(model)
    # A trunk that is handed in has no family: its default feature is its own result, the classifier's.
    assert one(picture, "layer4").parameters == size(torchvision.models.resnet18().layer4)


@pytest.mark.slow
def test_a_regnet_of_more_than_a_billion_parameters_needs_no_memory() -> None:
    with RealTensors() as made:
        picture = picture_of(example_graph("regnet_custom"))
    assert picture.frames[0].parameters > 1.2e9
    assert made.bytes < 10_000_000  # the weights are 5 GB


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:crossvit_9_240", "timm:hrnet_w18_small", "torchvision:vit_b_16"])
def test_calls_that_only_pick_or_ask_have_no_box_of_their_own(name: str) -> None:
    size = 240 if "240" in name else 224
    spec = {"inputs": {"images": [3, size, size]}, "trunk": name, "heads": {"a": {"mlp": {"dims": ["auto", 2]}}}}
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    quiet = {n for n, node in graph.nodes.items() if node.kind == "trunk" and operation_name(node) in QUIET}
    assert quiet
    assert not any(set(b.members) <= quiet for b in compose(graph, Options(), {}).boxes)
    assert any(set(b.members) <= quiet for b in compose(graph, Options(depth=3), {}).boxes)


def test_a_companion_of_an_input_enters_the_trunk_beside_it() -> None:
    spec = {
        "inputs": {"images": {"shape": [3, 32, 32], "with": ["mask"]}, "mask": {"shape": [2, 2], "dtype": "bool"}},
        "trunk": {
            "name": "vision_transformer", "image_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 16,
            "mlp_dim": 16, "masked_image_modeling": {"name": "ibot"},
        },
        "heads": {"a": {"mlp": {"dims": ["auto", 2]}}},
        "mapping": {"images": {"lastCLS": "a"}},
    }  # fmt: skip
    picture = drawn(spec)
    assert {a.lines for a in picture.arrows if a.source == "input:mask"} == {("N×2×2 bool",)}
    assert picture.flows == {}


def test_a_module_that_is_called_several_times_is_marked_and_counted_once() -> None:
    picture = look_at("dinov2_linear", Options())
    norms = [b for b in picture.boxes if b.title == "norm"]
    assert [("shared" in b.badges, b.parameters) for b in norms] == [(True, 768), *[(True, 0)] * 3]
    assert sum(b.parameters for b in picture.inside(norms[0].frame)) == picture.frames[0].parameters
    assert not any("shared" in b.badges for b in picture.boxes if b not in norms)


def test_an_unnamed_spec_is_titled_by_its_file(tmp_path: Any) -> None:
    text = "inputs: {images: {shape: [3, 64, 64]}}\ntrunk: {name: resnet, depth: 18}\n"
    file = tmp_path / "my_probe.yaml"
    file.write_text(text)
    assert picture_of(file).title == "my_probe"
    file.write_text(f"name: own\n{text}")
    assert picture_of(file).title == "own"


def test_the_deepest_level_opens_stages_into_layers(small: dict[str, Any]) -> None:
    picture = drawn(small, depth=3)
    reference = torchvision.models.resnet18()
    (stage,) = [f for f in picture.frames if f.title == "layer2"]
    (trunk,) = [f for f in picture.frames if f.kind == "trunk"]
    assert (stage.kind, stage.parent, stage.lines) == ("stage", trunk.id, ("2 × BasicBlock",))
    inside = picture.inside(stage.id)
    assert [b.title for b in inside][:3] == ["0.conv1", "0.bn1", "0.relu"]
    assert "0.downsample.0" in [b.title for b in inside]
    assert [b.title for b in inside].count("add") == 2
    assert sum(b.parameters for b in inside) == stage.parameters == size(reference.layer2)
    assert sum(b.flops for b in picture.boxes) == sum(b.flops for b in drawn(small).boxes)
    (before,) = {a.source for a in picture.arrows if a.target == inside[0].id}
    assert {a.target for a in picture.arrows if a.source == before} == {
        inside[0].id, next(b.id for b in inside if b.title == "0.downsample.0"),
    }  # fmt: skip
