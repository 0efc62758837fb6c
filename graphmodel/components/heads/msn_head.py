"""`msn_head`: soft assignments to prototypes.

Source: Assran et al. 2022 (arXiv:2204.07141); VISSL main branch, `vissl/models/heads/msn_head.py` (behaviour and
parameter names).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, refuse_tokens
from graphmodel.components.heads.dino_head import init_linear
from graphmodel.components.heads.mlp import as_vectors
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class MsnParams(HeadParams):
    """A projection head and prototypes."""

    width_field = "in_dim"
    in_dim: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    num_prototypes: PositiveInt = Field(description="Number of prototypes.")
    use_bn: Bool = Field(False, description="BatchNorm after the hidden linear layers.")
    hidden_dim: PositiveInt = Field(2048, description="Width of the hidden layers.")
    output_dim: PositiveInt = Field(256, description="Width of the query and the prototypes.")
    freeze_prototypes: Bool = Field(False, description="Prototypes do not train.")
    label_smoothing: float = Field(0.0, ge=0, le=1, description="Smoothing of each prototype's label.")
    temperature: float = Field(0.1, gt=0, description="Divides the scores before the softmax.")
    return_query: Bool = Field(False, description="Return the normalised projection instead of assignments.")

    def infer(self, feature: TensorInfo) -> Self:
        refuse_tokens(feature)
        return super().infer(feature)


@register_head("msn_head", "msn_head_fsdp", params=MsnParams)
class MsnHead(nn.Module):
    """`(N, C)` to assignments `(N, num_prototypes)`, or to the query `(N, output_dim)`."""

    def __init__(self, params: MsnParams) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, fan_in in enumerate((known(params.in_dim), params.hidden_dim), 1):
            layers[f"fc{i}"] = nn.Linear(fan_in, params.hidden_dim)
            if params.use_bn:
                layers[f"bn{i}"] = nn.BatchNorm1d(params.hidden_dim)
            layers[f"gelu{i}"] = nn.GELU()
        layers["fc3"] = nn.Linear(params.hidden_dim, params.output_dim)
        self.fc = nn.Sequential(layers)
        init_linear(self.fc)
        bound = params.output_dim**-0.5
        prototypes = torch.empty(params.num_prototypes, params.output_dim).uniform_(-bound, bound)
        self.prototypes = nn.Parameter(prototypes, requires_grad=not params.freeze_prototypes)
        self.smoothing, self.temperature = params.label_smoothing, params.temperature
        self.return_query = params.return_query

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = F.normalize(self.fc(as_vectors(x)), dim=-1)
        if self.return_query:
            return query
        scores = query @ F.normalize(self.prototypes, dim=-1).T
        assigned = torch.softmax(scores / self.temperature, dim=1)
        if not self.smoothing:
            return assigned
        # The product with smoothed one-hot labels: every row of `assigned` sums to 1.
        return assigned * (1 - self.smoothing) + self.smoothing / assigned.size(1)
