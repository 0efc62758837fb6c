from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.components.heads.eval_mlp_pooled import EvalMlpPooled, EvalMlpPooledParams

TOKENS = torch.randn(3, 5, 12)


def test_every_token_is_normalised_over_the_batch_and_classified() -> None:
    head = EvalMlpPooled(EvalMlpPooledParams(in_channels=12, dims=[12, 4], bn_eps=1e-3, bn_momentum=0.3))
    norm, linear = nn.BatchNorm1d(12, eps=1e-3, momentum=0.3), nn.Linear(12, 4)
    linear.load_state_dict(head.clf[0].state_dict())
    want = linear(norm(TOKENS.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(head(TOKENS), want.transpose(0, 1))
    torch.testing.assert_close(head.channel_bn.running_mean, norm.running_mean)


def test_hidden_layers_see_each_token_as_a_row() -> None:
    head = EvalMlpPooled(EvalMlpPooledParams(in_channels=12, dims=[12, 6, 4], use_bn=True, use_relu=True))
    assert [type(m) for m in head.clf] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head(TOKENS).shape == (5, 3, 4)


def model(head: dict[str, Any], feature: str = "lastBLK") -> nn.Module:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "vision_transformer", "image_size": 32, "num_layers": 1, "hidden_dim": 24, "num_heads": 2},
        "heads": {"probe": {"eval_mlp_pooled": head}},
        "mapping": [{"from": f"images.{feature}", "head": "probe"}],
    }
    return graphmodel.compile(spec, seed=0, returns="tensor")


def test_the_width_is_read_off_the_tokens() -> None:
    assert model({"dims": ["auto", 10]})(torch.randn(2, 3, 32, 32)).shape == (5, 2, 10)


@pytest.mark.parametrize(
    ("head", "feature", "words"),
    [
        ({"dims": [24, 10]}, "lastCLS", "sequence of tokens"),
        ({"dims": [25, 10]}, "lastBLK", "wants 25 features"),
        ({"dims": [24, 10], "in_channels": 3}, "lastBLK", "wants 3 features"),
    ],
)
def test_features_that_do_not_fit_are_refused(head: dict[str, Any], feature: str, words: str) -> None:
    with pytest.raises(graphmodel.CompileError, match=words) as caught:
        model(head, feature)
    assert caught.value.diagnostics[0].code == "GM304"
