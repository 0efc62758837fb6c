"""`torch.fx.symbolic_trace` goes through the heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphmodel

HEADS: dict[str, Any] = {
    "mlp": {"dims": ["auto", 4]},
    "mlp_res": {"dims": ["auto", 4]},
    "eval_mlp": {"dims": ["auto", 4]},
    "dino_head": {"num_clusters": [6], "hidden_dim": 8, "bottleneck_dim": 4},
    "msn_head": {"num_prototypes": 6, "hidden_dim": 8, "output_dim": 4},
    "mobilenet_v3_head": {"num_classes": 3, "mid_channels": 8, "with_bn": True},
    "mobilenet_v3_head_timm": {"num_classes": 3, "mid_channels": 8, "with_bn": True},
    "vision_transformer_head": {"num_classes": 3},
    "swav_head": {"dims": ["auto", 8, 4], "num_clusters": [3], "use_bn": True},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_traced_model_computes_the_same(name: str) -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"head": {name: HEADS[name]}},
        "mapping": {"images": {"res2": {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "heads": ["head"]}}},
    }
    model = graphmodel.compile(spec, seed=0).eval()
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(2, 3, 32, 32)
    found, expected = traced(x), model(x)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
