"""`dino_head`: an MLP with a bottleneck, L2 normalisation and weight-normalised prototypes.

Source: Caron et al. 2021 (arXiv:2104.14294); VISSL 0.1.6, `vissl/models/heads/dino_head.py` (behaviour and parameter
names).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, refuse_tokens
from graphmodel.components.heads.mlp import as_rows
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows point along `weight_v` and are `weight_g` long.

    The same function as `torch.nn.utils.weight_norm` on `nn.Linear`, under the same names, which are those of DINO's
    and VISSL's checkpoints. As a separate module it can be pickled, which torch's parametrised form cannot.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        train_length: whether the lengths `weight_g`, which start at 1, are trained.
        as_buffer: whether lengths that are not trained are a buffer, as FSDP requires: the parameters that it shards
            together must agree on `requires_grad`.
    """

    def __init__(self, in_features: int, out_features: int, train_length: bool, as_buffer: bool = False) -> None:
        super().__init__()
        if as_buffer and not train_length:
            self.register_buffer("weight_g", torch.ones(out_features, 1))
        else:
            self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_length)
        self.weight_v = nn.Parameter(nn.Linear(in_features, out_features, bias=False).weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))

    def extra_repr(self) -> str:
        return f"in_features={self.weight_v.size(1)}, out_features={self.weight_v.size(0)}"


def init_linear(module: nn.Module) -> None:
    """Weights of linear layers from a truncated normal (0.02), biases zero, as in DINO."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class DinoParams(HeadParams):
    """A projection head and its prototypes."""

    width_field = "in_dim"
    in_dim: PositiveInt | Auto = Field("auto", description="Width of the feature.")
    num_clusters: Annotated[
        list[PositiveInt], Field(min_length=1, max_length=1, description="One number of prototypes.")
    ]
    use_bn: Bool = Field(False, description="BatchNorm after the hidden linear layers.")
    normalize_last_layer: Bool = Field(True, description="Keep prototypes at length 1.")
    num_layers: PositiveInt = Field(3, description="Linear layers before the prototypes.")
    hidden_dim: PositiveInt = Field(2048, description="Width of the hidden layers.")
    bottleneck_dim: PositiveInt = Field(256, description="Width of the normalised vectors.")

    def infer(self, feature: TensorInfo) -> Self:
        if self.use_bn:
            refuse_tokens(feature, "has BatchNorm over vectors", ("use_bn",), "leave `use_bn` out, or read one token")
        return super().infer(feature)

    def outputs(self) -> tuple[str, ...]:
        return ("prototypes",)


@register_head("dino_head", params=DinoParams)
class DinoHead(nn.Module):
    """`(N, C)` to a list of one tensor, the scores `(N, num_clusters[0])`."""

    fixed_length_as_buffer = False

    def __init__(self, params: DinoParams) -> None:
        super().__init__()
        widths = [known(params.in_dim), *[params.hidden_dim] * (params.num_layers - 1), params.bottleneck_dim]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(fan_in, fan_out))
            if i < params.num_layers - 1:
                layers += [nn.BatchNorm1d(fan_out)] if params.use_bn else []
                layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
        init_linear(self.mlp)
        self.prototypes0 = WeightNormLinear(
            params.bottleneck_dim,
            params.num_clusters[0],
            train_length=not params.normalize_last_layer,
            as_buffer=self.fixed_length_as_buffer,
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = as_rows(x)
        return [self.prototypes0(F.normalize(self.mlp(x), dim=-1))]


@register_head("dino_head_fsdp", params=DinoParams)
class DinoHeadFsdp(DinoHead):
    """`dino_head` for FSDP: prototype lengths that are not trained are a buffer, as in VISSL."""

    fixed_length_as_buffer = True
