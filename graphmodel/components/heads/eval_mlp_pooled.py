"""`eval_mlp_pooled`: a probe on every token of a sequence.

Source: VISSL main branch, `vissl/models/heads/mlp_pooled.py` (behaviour and parameter names).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import HeadMismatch, HeadParams, known, vector_width
from graphmodel.components.heads.mlp import MlpParams, Width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool


class EvalMlpPooledParams(HeadParams):
    """A probe on a sequence of tokens."""

    in_channels: Width = Field("auto", description="Width of the tokens.")
    dims: Annotated[list[Width], Field(min_length=2, description="Widths; the first may be `auto`.")]
    use_bn: Bool = Field(False, description="BatchNorm after hidden linear layers.")
    use_relu: Bool = Field(False, description="ReLU after hidden linear layers.")
    bn_eps: float = Field(1e-5, gt=0, description="Epsilon of batch normalisation.")
    bn_momentum: float = Field(0.1, description="Momentum of batch normalisation.")

    def infer(self, feature: TensorInfo) -> Self:
        if len(feature.shape) != 3:
            raise HeadMismatch(
                f"wants a sequence of tokens (N×L×C) and the feature is {feature}",
                (),
                "read a feature of tokens, such as `lastBLK`, or use `eval_mlp`",
            )
        width = vector_width(feature)
        return self.with_width("in_channels", width, feature).with_width("dims", width, feature)


@register_head("eval_mlp_pooled", "eval_mlp_pooled_fsdp", params=EvalMlpPooledParams)
class EvalMlpPooled(nn.Module):
    """`(N, L, C)` to predictions of each token, `(L, N, dims[-1])`: VISSL's ensemble, tokens first."""

    def __init__(self, params: EvalMlpPooledParams) -> None:
        super().__init__()
        self.channel_bn = nn.BatchNorm2d(known(params.in_channels), eps=params.bn_eps, momentum=params.bn_momentum)
        inner = MlpParams(
            dims=params.dims,
            use_bn=params.use_bn,
            use_relu=params.use_relu,
            bn_eps=params.bn_eps,
            bn_momentum=params.bn_momentum,
        )
        self.clf = nn.Sequential(*(layer for spec in inner.layers() for layer in inner.block(*spec)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        columns = tokens.transpose(1, 2).unsqueeze(3)
        rows = self.channel_bn(columns).squeeze(3).permute(2, 0, 1)
        out: torch.Tensor = self.clf(rows.flatten(0, 1))
        return torch.unflatten(out, 0, rows.shape[:2])
