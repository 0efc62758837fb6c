"""`cosine`: a classifier by the angle between features and class weights.

Source: Gidaris and Komodakis 2018 (arXiv:1804.09458, section 3.2; gidariss/FewShotWithoutForgetting,
`architectures/ClassifierWithFewShotGenerationModule.py`): features and weights are divided by their norms, and the
cosines are multiplied by a scale that starts at 10 and trains.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, token_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class CosineParams(HeadParams):
    """A cosine classifier."""

    in_features: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    num_classes: PositiveInt = Field(description="Number of classes.")
    scale: float = Field(10.0, gt=0, description="The cosines are multiplied by it.")
    learn_scale: Bool = Field(True, description="Whether the scale trains.")

    def infer(self, feature: TensorInfo) -> Self:
        return self.with_width("in_features", token_width(feature), feature)


@register_head("cosine", params=CosineParams)
class CosineClassifier(nn.Module):
    """Scaled cosines to each class: `(N, C)` to `(N, num_classes)`; tokens `(N, L, C)` likewise.

    Example:
        >>> head = CosineClassifier(CosineParams(in_features=4, num_classes=3, scale=2))
        >>> bool(head(torch.randn(5, 4)).abs().max() <= 2 + 1e-5)
        True
    """

    def __init__(self, params: CosineParams) -> None:
        super().__init__()
        width = known(params.in_features)
        self.weight = nn.Parameter(torch.randn(params.num_classes, width) * (2.0 / width) ** 0.5)
        scale = torch.full((1,), params.scale)
        if params.learn_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        return f"in_features={self.weight.size(1)}, num_classes={self.weight.size(0)}"
