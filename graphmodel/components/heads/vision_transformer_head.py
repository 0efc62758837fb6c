"""`vision_transformer_head`: the classifier of the original vision transformer.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); VISSL 0.1.6, `vissl/models/heads/vision_transformer_head.py`
(behaviour and parameter names).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from pydantic import Field
from torch import nn

from graphmodel.components.head import Auto, HeadParams, known
from graphmodel.components.heads.mlp import as_rows
from graphmodel.components.registry import register_head
from graphmodel.spec.fields import PositiveInt


class VisionTransformerHeadParams(HeadParams):
    """A linear classifier, or one with a hidden layer and tanh."""

    width_field = "in_plane"
    in_plane: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    num_classes: PositiveInt = Field(description="Number of outputs.")
    hidden_dim: PositiveInt | None = Field(None, description="Width of the hidden layer; none by default.")


@register_head("vision_transformer_head", "vision_transformer_head_fsdp", params=VisionTransformerHeadParams)
class VisionTransformerHead(nn.Module):
    """`(N, C)` to `(N, num_classes)`."""

    def __init__(self, params: VisionTransformerHeadParams) -> None:
        super().__init__()
        last = width = known(params.in_plane)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if params.hidden_dim is not None:
            last = params.hidden_dim
            layers["pre_logits"] = _linear(width, last, width**-0.5)
            layers["act"] = nn.Tanh()
        layers["head"] = _linear(last, params.num_classes, 0.02)
        self.layers = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(as_rows(x))
        return out


def _linear(fan_in: int, fan_out: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.trunc_normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer
