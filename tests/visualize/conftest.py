"""Models to draw, small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

import graphmodel
from graphmodel.api import build_graph
from graphmodel.graph.types import ModelGraph
from graphmodel.visualize import Options, Picture, picture_of
from tests.conftest import EXAMPLES
from tests.full_width import small, two_inputs  # noqa: F401
from tests.visualize import toy  # noqa: F401 (registers the toy transformer)

NATIVE = sorted(p.stem for p in (EXAMPLES / "native").glob("*.yaml"))


@cache
def example_graph(name: str) -> ModelGraph:
    """The graph of an example."""
    return build_graph(graphmodel.load_spec(EXAMPLES / "native" / f"{name}.yaml"))


def drawn(spec: Mapping[str, Any], **options: Any) -> Picture:
    """The picture of a mapping, made once for all tests."""
    return _drawn(json.dumps(spec), Options(**options))


@cache
def _drawn(spec: str, options: Options) -> Picture:
    return picture_of(json.loads(spec), options)


@pytest.fixture
def crops() -> dict[str, Any]:
    """Two large and three small crops through one trunk, a head on all of them."""
    return {
        "name": "crops",
        "inputs": {"crops": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"count": 3, "shape": [3, 32, 32]}]}},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {"head": {"swav_head": {"dims": ["auto", 16], "use_bn": False, "num_clusters": [5]}}},
        "mapping": {"crops": {"flatten": "head"}},
    }


@pytest.fixture
def blocks() -> dict[str, Any]:
    """A transformer of twelve equal blocks, read at its end."""
    return {
        "name": "blocks",
        "inputs": {"images": {"shape": [3, 16, 16]}},
        "trunk": {"name": "toy_transformer"},
        "heads": {"head": {"mlp": {"dims": ["auto", 4]}}},
        "mapping": {"images": {"last": "head"}},
    }


def probes(layers: int, each: int, width: int = 3, unlike: bool = False) -> dict[str, Any]:
    """Heads on several blocks of the toy transformer; `unlike` gives each its own width."""
    heads: dict[str, Any] = {}
    mapping: dict[str, list[str]] = {}
    for layer in range(layers):
        for number in range(each):
            name = f"layer{layer}_probe{number}"
            heads[name] = {"mlp": {"dims": ["auto", width + (number if unlike else 0)]}}
            mapping.setdefault(f"block{layer}", []).append(name)
    return {
        "name": "probes",
        "inputs": {"images": {"shape": [3, 16, 16]}},
        "trunk": {"name": "toy_transformer", "freeze": True},
        "heads": heads,
        "mapping": {"images": mapping},
    }
