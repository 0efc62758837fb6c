from __future__ import annotations

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.components.heads.vision_transformer_head import VisionTransformerHead, VisionTransformerHeadParams


def test_with_a_hidden_layer_there_is_a_tanh_between() -> None:
    head = VisionTransformerHead(VisionTransformerHeadParams(in_plane=12, hidden_dim=16, num_classes=4))
    reference = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))
    for ours, theirs in zip(head.parameters(), reference.parameters(), strict=True):
        theirs.data.copy_(ours)
    x = torch.randn(5, 12)
    torch.testing.assert_close(head(x), reference(x))
    assert list(head.state_dict()) == [
        "layers.pre_logits.weight", "layers.pre_logits.bias", "layers.head.weight", "layers.head.bias",
    ]  # fmt: skip


def test_without_one_it_is_linear() -> None:
    head = VisionTransformerHead(VisionTransformerHeadParams(in_plane=12, num_classes=4))
    assert list(head.state_dict()) == ["layers.head.weight", "layers.head.bias"]


def test_weights_start_as_in_the_original() -> None:
    head = VisionTransformerHead(VisionTransformerHeadParams(in_plane=256, hidden_dim=400, num_classes=300))
    assert head.layers.pre_logits.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert head.layers.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.layers.head.bias.any()


def test_a_feature_map_is_refused_and_a_pooled_one_is_not() -> None:
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"head": {"vision_transformer_head": {"num_classes": 4}}},
    }
    model = graphmodel.compile({**spec, "mapping": {"images": {"res5avg": "head"}}}, returns="tensor")
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)
    with pytest.raises(graphmodel.CompileError, match="one vector per sample"):
        graphmodel.compile({**spec, "mapping": {"images": {"res5": "head"}}})
