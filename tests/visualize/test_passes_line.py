"""The picture's heading says what passes did."""

from __future__ import annotations

from typing import Any

import graphmodel
from graphmodel.visualize import Options, Picture, draw, labels, picture_of


def test_the_heading_says_what_each_pass_did(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**small, "checkpoint": ["layer1"]}))
    picture = picture_of(graph)
    assert picture.lines[1:] == graph.summary
    assert "recomputed in the backward pass" in picture.lines[-1]
    assert len(picture_of(graphmodel.build_graph(graphmodel.load_spec(small))).lines) == 1


def boxes_with(picture: Picture, badge: str) -> set[str]:
    return {box.title for box in picture.boxes if badge in box.badges}


def test_calls_that_optimizations_change_have_badges_and_the_heading_says_what_explain_says() -> None:
    names = ["left", "right"]
    spec = {
        "inputs": {name: {"shape": [3, 32, 32]} for name in names},
        "trunk": {"name": "resnet", "depth": 18, "freeze": True},
        "heads": {f"head{i}": {"mlp": {"dims": ["auto", 4]}} for i in range(12)},
        "mapping": {"left": {"flatten": [f"head{i}" for i in range(12)]}, "right": {"res5": None}},
        "optimize": {"batch_inputs": True, "fold_batchnorm": True, "channels_last": True},
    }
    picture = picture_of(spec, Options(depth=2, stack=0))
    module = graphmodel.compile(spec, device="meta")
    assert picture.lines[1:] == tuple(labels.cut(text, 110) for text in module.optimized_graph.summary)
    assert {"batch_inputs", "fold_batchnorm", "channels_last", "fuse_heads"} == {
        line.partition(":")[0] for line in picture.lines[1:]
    } - {"freeze", "prune"}
    stages = {"layer1", "layer2", "layer3", "layer4"}
    for name in ("batch_inputs", "fold_batchnorm", "channels_last"):
        assert stages <= boxes_with(picture, name), name
    heads = {f"head{i}" for i in range(12)}
    assert boxes_with(picture, "fuse_heads") == heads
    assert "joined" in draw(picture, "dot")
    plain = picture_of(graphmodel.compile(spec, device="meta", passes=()), Options(depth=2, stack=0))
    assert not any(boxes_with(plain, name) for name in ("batch_inputs", "fuse_heads", "fold_batchnorm"))
