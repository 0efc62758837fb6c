"""Transformers on crops of two sizes under `torch.compile`: one graph, for every batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphmodel

TRUNKS: dict[str, dict[str, Any]] = {
    "vision_transformer": {"image_size": 64, "hidden_dim": 12, "num_heads": 2, "mlp_dim": 12, "num_layers": 1},
    "convit": {
        "image_size": 64, "hidden_dim": 12, "num_heads": 4, "mlp_dim": 12, "num_layers": 2, "n_gpsa_layers": 1,
    },
    "xcit": {"image_size": 64, "hidden_dim": 16, "num_heads": 2, "num_layers": 1},
    "swin_transformer": {"image_size": 64, "patch_size": 2, "embed_dim": 4, "depths": [2, 2], "num_heads": [1, 2]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_one_graph_serves_every_batch_size(name: str) -> None:
    views = [{"count": 1, "shape": [3, 64, 64]}, {"count": 1, "shape": [3, 32, 32]}]
    spec = {
        "inputs": {"images": {"views": views}},
        "trunk": {"name": name, **TRUNKS[name]},
        "heads": {"dino": {"dino_head": {"num_clusters": [6], "hidden_dim": 8, "bottleneck_dim": 4}}},
    }
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    torch._dynamo.reset()
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for batch in (2, 3, 5):
        crops = [torch.randn(batch, 3, side, side) for side in (64, 32)]
        for crop in crops:
            torch._dynamo.mark_dynamic(crop, 0)
        with torch.no_grad():
            torch.testing.assert_close(compiled(crops), model(crops))
    assert len(seen) == 1
