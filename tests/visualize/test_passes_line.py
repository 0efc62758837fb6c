"""The picture's heading says what passes did."""

from __future__ import annotations

from typing import Any

import graphmodel
from graphmodel.visualize import picture_of


def test_the_heading_says_what_each_pass_did(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**small, "checkpoint": ["layer1"]}))
    picture = picture_of(graph)
    assert picture.lines[1:] == graph.summary
    assert "recomputed in the backward pass" in picture.lines[-1]
    assert len(picture_of(graphmodel.build_graph(graphmodel.load_spec(small))).lines) == 1
