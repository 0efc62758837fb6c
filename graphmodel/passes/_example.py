"""A small graph for the examples in the docstrings of passes: a trunk of five layers with readable names."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from graphmodel.build.build import build_graph
from graphmodel.dialects.loading import load_spec
from graphmodel.graph.types import ModelGraph


def example(mapping: Any, trunk: nn.Module | None = None, settings: Any = None, **spec: Any) -> ModelGraph:
    """The graph of a small trunk before any pass.

    Args:
        mapping: the spec's `mapping`.
        trunk: another trunk.
        settings: further keys of the spec's trunk.
        **spec: further keys of the spec.
    """
    layers = [
        ("conv", nn.Conv2d(3, 4, 3)),
        ("norm", nn.BatchNorm2d(4)),
        ("stage1", nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())),
        ("stage2", nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())),
        ("flatten", nn.Flatten()),
    ]
    document = {"name": "example", "inputs": {"images": [3, 8, 8]}, "mapping": mapping, **spec}
    document["trunk"] = {"name": "resnet", **(settings or {})}
    given = trunk if trunk is not None else nn.Sequential(OrderedDict(layers))
    return build_graph(load_spec(document), trunks={"trunk": given})
