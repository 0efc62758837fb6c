"""`swav_head`: projection, L2 normalisation and prototypes.

Source: Caron et al. 2020 (arXiv:2006.09882); VISSL 0.1.6, `vissl/models/heads/swav_prototypes_head.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from typing_extensions import Self

from graphmodel.components.head import HeadParams
from graphmodel.components.heads.mlp import Width
from graphmodel.components.registry import register_head
from graphmodel.spec.fields import Bool, PositiveInt


class SwavParams(HeadParams):
    """A projection head and its prototypes."""

    width_field = "dims"
    dims: Annotated[list[Width], Field(min_length=1, description="Widths of the projection; the first may be `auto`.")]
    use_bn: Bool = Field(description="BatchNorm between linear layers.")
    num_clusters: Annotated[list[PositiveInt], Field(description="Prototypes of each prototype layer.")]
    use_bias: Bool = True
    return_embeddings: Bool = Field(True, description="Return the normalised embedding too, first.")
    skip_last_bn: Bool = Field(True, description="No BatchNorm and ReLU after the last linear layer.")
    normalize_feats: Bool = Field(True, description="L2-normalise the embedding.")
    activation_name: Literal["ReLU", "GELU"] = Field("ReLU", description="Activation between linear layers.")
    use_weight_norm_prototypes: Bool = Field(False, description="Prototypes with weight normalisation, gains at 1.")
    normalize_last_layer: Bool = Field(False, description="The gains of weight-normalised prototypes do not train.")
    bn_eps: float = Field(1e-5, gt=0)
    bn_momentum: float = 0.1

    @model_validator(mode="after")
    def gains_need_weight_norm(self) -> Self:
        if self.normalize_last_layer and not self.use_weight_norm_prototypes:
            raise ValueError("`normalize_last_layer` needs `use_weight_norm_prototypes: true`")
        return self

    def outputs(self) -> tuple[str, ...]:
        names = tuple(f"prototypes{i}" for i in range(len(self.num_clusters)))
        return ("embedding", *names) if self.return_embeddings else names


@register_head("swav_head", "swav_head_fsdp", params=SwavParams)
class SwavHead(nn.Module):
    """`(N, C)` to a list: the embedding `(N, dims[-1])`, then scores `(N, k)` for each prototype layer."""

    def __init__(self, params: SwavParams) -> None:
        super().__init__()
        widths = [d for d in params.dims if isinstance(d, int)]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(fan_in, fan_out, bias=params.use_bias))
            if i == len(widths) - 2 and params.skip_last_bn:
                break
            if params.use_bn:
                layers.append(nn.BatchNorm1d(fan_out, eps=params.bn_eps, momentum=params.bn_momentum))
            layers.append(nn.ReLU(inplace=True) if params.activation_name == "ReLU" else nn.GELU())
        self.projection_head = nn.Sequential(*layers)
        for i, clusters in enumerate(params.num_clusters):
            prototypes = nn.Linear(widths[-1], clusters, bias=False)
            if params.use_weight_norm_prototypes:
                prototypes = weight_norm(prototypes)
                gain = prototypes.parametrizations.weight.original0
                nn.init.ones_(gain)
                gain.requires_grad_(not params.normalize_last_layer)
            self.add_module(f"prototypes{i}", prototypes)
        self.prototypes = [f"prototypes{i}" for i in range(len(params.num_clusters))]
        self.normalize, self.return_embeddings = params.normalize_feats, params.return_embeddings

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.projection_head(x.flatten(1))
        if self.normalize:
            x = nn.functional.normalize(x, dim=1, p=2.0)
        scores = [getattr(self, name)(x) for name in self.prototypes]
        return [x, *scores] if self.return_embeddings else scores
