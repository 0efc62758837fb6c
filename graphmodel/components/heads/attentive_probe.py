"""`attentive_probe`: learned queries that read tokens by cross-attention, and a linear classifier.

Sources:
    vjepa: Bardes et al. 2024 (arXiv:2404.08471); facebookresearch/jepa, `src/models/attentive_pooler.py`,
        `AttentiveClassifier`, and `src/models/utils/modules.py`, `CrossAttentionBlock`: tokens are normalised, and the
        block has a residual connection and an MLP.
    cae: Chen et al. 2022 (arXiv:2202.03026); Atten4Vis/CAE, `models/modeling_finetune.py`, `AttentiveBlock` without
        position embeddings: the queries and, twice, the tokens are normalised (for keys and for values), keys have no
        bias, and BatchNorm without parameters precedes the classifier.
    coca: Yu et al. 2022 (arXiv:2205.01917); mlfoundations/open_clip, `src/open_clip/transformer.py`,
        `AttentionalPooler`: the queries and the tokens are normalised. The classifier is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, known, vector_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Int, PositiveInt


class AttentiveProbeParams(HeadParams):
    """Queries, one cross-attention and a classifier."""

    in_dim: PositiveInt | Auto = Field("auto", description="Width of the tokens.")
    num_classes: Int = Field(ge=0, description="Number of classes; 0 returns what the queries have read.")
    style: Literal["vjepa", "cae", "coca"] = Field("vjepa", description="The method whose cross-attention it is.")
    num_queries: PositiveInt = Field(1, description="Learned queries; with several, each is classified.")
    num_heads: PositiveInt = Field(12, description="Attention heads.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the MLP of `vjepa` for each width of the tokens.")
    eps: float = Field(1e-5, gt=0, description="Epsilon of layer normalisation; CAE's code has 1e-6.")

    def infer(self, feature: TensorInfo) -> Self:
        if len(feature.shape) != 3:
            help = "read the tokens of a transformer, or make tokens of a map (`layout: nlc`)"
            raise HeadMismatch(f"wants a sequence of tokens and the feature is {feature}", (), help)
        width = vector_width(feature)
        if width % self.num_heads:
            message = f"has {self.num_heads} attention heads, which do not divide the width {width}"
            raise HeadMismatch(message, ("num_heads",), "write a number that divides the width")
        return self.with_width("in_dim", width, feature)


class CrossAttention(nn.Module):
    """Multi-head attention of queries `(N, Q, C)` to keys and values `(N, L, C)`.

    Args:
        dim: the width.
        num_heads: attention heads.
        key_bias: whether the projection of the keys has a bias; the others have one.
    """

    def __init__(self, dim: int, num_heads: int, key_bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, dim // num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim, bias=key_bias)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.q(queries)), self.split(self.k(keys)), self.split(self.v(values))
        found: torch.Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, L, C)` as `(N, heads, L, C / heads)`."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_width).transpose(1, 2)


@register_head("attentive_probe", params=AttentiveProbeParams)
class AttentiveProbe(nn.Module):
    """Classes of a token sequence: `(N, L, C)` to `(N, num_classes)`, or `(N, num_queries, num_classes)` of several.

    Example:
        >>> head = AttentiveProbe(AttentiveProbeParams(in_dim=8, num_heads=2, num_classes=5))
        >>> tuple(head(torch.randn(3, 7, 8)).shape)
        (3, 5)
    """

    def __init__(self, params: AttentiveProbeParams) -> None:
        super().__init__()
        dim, style = known(params.in_dim), params.style
        self.one = params.num_queries == 1
        self.queries = nn.Parameter(torch.zeros(1, params.num_queries, dim))
        self.norm_q = nn.LayerNorm(dim, params.eps) if style != "vjepa" else None
        self.norm_k = nn.LayerNorm(dim, params.eps)
        self.norm_v = nn.LayerNorm(dim, params.eps) if style == "cae" else None
        self.attention = CrossAttention(dim, params.num_heads, key_bias=style != "cae")
        self.norm2: nn.LayerNorm | None = None
        self.mlp: nn.Sequential | None = None
        if style == "vjepa":
            hidden = int(dim * params.mlp_ratio)
            self.norm2 = nn.LayerNorm(dim, params.eps)
            self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.bn = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if style == "cae" else None
        self.classifier = nn.Linear(dim, params.num_classes) if params.num_classes else None
        self.initialise(style)

    def initialise(self, style: str) -> None:
        """Initial weights of the method's code."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if style == "coca":
            nn.init.normal_(self.queries)
        if style == "vjepa":
            nn.init.trunc_normal_(self.queries, std=0.02)
            assert self.mlp is not None
            with torch.no_grad():
                for layer in (self.attention.proj, self.mlp[2]):
                    layer.get_parameter("weight").div_(2**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        keys = self.norm_k(x)
        values = keys if self.norm_v is None else self.norm_v(x)
        found = self.attention(queries if self.norm_q is None else self.norm_q(queries), keys, values)
        if self.mlp is not None and self.norm2 is not None:
            found = queries + found
            found = found + self.mlp(self.norm2(found))
        if self.bn is not None:
            found = self.bn(found.transpose(1, 2)).transpose(1, 2)
        if self.classifier is not None:
            found = self.classifier(found)
        return found.squeeze(1) if self.one else found
