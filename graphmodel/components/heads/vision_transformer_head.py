"""`vision_transformer_head`: the classifier of the original vision transformer.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); VISSL 0.1.6, `vissl/models/heads/vision_transformer_head.py`
(behaviour and parameter names).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, match_width, width
from graphmodel.components.heads.mlp import as_vectors
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.validate import PositiveInt


class VisionTransformerHeadParams(HeadParams):
    """A linear classifier, or one with a hidden layer and tanh."""

    in_plane: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    num_classes: PositiveInt = Field(description="Number of outputs.")
    hidden_dim: PositiveInt | None = Field(None, description="Width of the hidden layer; none by default.")

    def infer(self, feature: TensorInfo) -> Self:
        return self.model_copy(update={"in_plane": match_width(self.in_plane, width(feature), ("in_plane",), feature)})


@register_head("vision_transformer_head", "vision_transformer_head_fsdp", params=VisionTransformerHeadParams)
class VisionTransformerHead(nn.Module):
    """`(N, C)` to `(N, num_classes)`."""

    def __init__(self, params: VisionTransformerHeadParams) -> None:
        super().__init__()
        assert isinstance(params.in_plane, int)
        last = params.in_plane
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if params.hidden_dim is not None:
            last = params.hidden_dim
            layers["pre_logits"] = _linear(params.in_plane, last, params.in_plane**-0.5)
            layers["act"] = nn.Tanh()
        layers["head"] = _linear(last, params.num_classes, 0.02)
        self.layers = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(as_vectors(x) if x.dim() == 4 else x)
        return out


def _linear(fan_in: int, fan_out: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.trunc_normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer
