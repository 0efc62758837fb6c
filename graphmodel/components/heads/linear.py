"""`linear`: one linear layer, such as a classifier or a linear probe.

Source: the probes of He et al. 2022 (MAE, arXiv:2111.06377; facebookresearch/mae, `main_linprobe.py`: BatchNorm without
parameters before the layer, weights from a normal distribution of 0.01) and of Oquab et al. 2023 (DINOv2,
arXiv:2304.07193; facebookresearch/dinov2, `dinov2/eval/linear.py`, `LinearClassifier`: the same weights, biases zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, refuse_tokens, token_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class LinearParams(HeadParams):
    """A linear layer."""

    elsewhere: ClassVar[Mapping[str, str]] = {"dims": "`linear` takes `out_features: 10`; `mlp` takes `dims`"}
    in_features: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    out_features: PositiveInt = Field(description="Width of the result, such as the number of classes.")
    bias: Bool = Field(True, description="Whether the layer has a bias.")
    batch_norm: Bool = Field(False, description="BatchNorm without parameters before the layer, as in MAE's probe.")
    init_std: float | None = Field(
        None, gt=0, description="Initial weights from a normal distribution, and a zero bias; by default torch's own."
    )

    def infer(self, feature: TensorInfo) -> Self:
        if self.batch_norm:
            refuse_tokens(feature, "has BatchNorm over vectors", ("batch_norm",))
        return self.with_width("in_features", token_width(feature), feature)


@register_head("linear", params=LinearParams)
def linear(params: LinearParams) -> nn.Module:
    """One linear layer: `(N, C)` to `(N, out_features)`, `(N, L, C)` to `(N, L, out_features)`.

    Example:
        >>> linear(LinearParams(in_features=512, out_features=10))
        Linear(in_features=512, out_features=10, bias=True)
    """
    width = known(params.in_features)
    layer = nn.Linear(width, params.out_features, bias=params.bias)
    if params.init_std is not None:
        nn.init.normal_(layer.weight, std=params.init_std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), layer) if params.batch_norm else layer
