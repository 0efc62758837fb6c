"""`text_transformer`: the text encoder of CLIP, from token ids to one vector per text.

Source: Radford et al. 2021 (arXiv:2103.00020, section 2.4); openai/CLIP, `clip/model.py`, `CLIP.encode_text`,
`Transformer` and `initialize_parameters` (names of parameters, initial weights).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, known
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import PositiveInt


class TextTransformerParams(HeadParams):
    """Token embeddings, causal transformer blocks, and a projection of the end-of-text token."""

    vocab_size: PositiveInt = Field(49408, description="Number of token ids.")
    context_length: PositiveInt | Auto = Field(
        "auto", description="Number of position embeddings; by default the length of the texts, and never less."
    )
    width: PositiveInt = Field(512, description="Width of the tokens.")
    depth: PositiveInt = Field(12, description="Number of blocks.")
    num_heads: PositiveInt | Auto = Field("auto", description="Attention heads; by default one for every 64 features.")
    out_features: PositiveInt = Field(512, description="Width of the text's vector.")

    def infer(self, feature: TensorInfo) -> Self:
        if len(feature.shape) != 2 or feature.dtype not in ("int32", "int64"):
            help = "read an input of token ids: `inputs: {text: {shape: [77], dtype: int64, trunk: none}}`"
            raise HeadMismatch(f"wants token ids and the feature is {feature} ({feature.dtype})", (), help)
        length = int(feature.sample[0])
        context = length if self.context_length == "auto" else self.context_length
        if length > context:
            message = f"has {context} position embeddings and the texts have {length} tokens"
            raise HeadMismatch(message, ("context_length",), f"write {length} or `auto`")
        heads = max(self.width // 64, 1) if self.num_heads == "auto" else self.num_heads
        if self.width % heads:
            message = f"has {heads} attention heads, which do not divide the width {self.width}"
            raise HeadMismatch(message, ("num_heads",), "write a number that divides the width")
        return self.model_copy(update={"context_length": context, "num_heads": heads})


class CausalAttention(nn.Module):
    """Multi-head self-attention in which no token reads a later one: `(N, L, C)` to `(N, L, C)`.

    Args:
        width: the width of the tokens.
        num_heads: attention heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, width // num_heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            qkv.reshape(x.shape[0], x.shape[1], 3, self.num_heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        )
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return out


class QuickGELU(nn.Module):
    """The approximation of GELU that CLIP was trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and an MLP of four times the width, each after its norm and beside a residual connection.

    Args:
        width: the width of the tokens.
        num_heads: attention heads.
        depth: the number of blocks, for the initial weights.
    """

    def __init__(self, width: int, num_heads: int, depth: int) -> None:
        super().__init__()
        self.attn = CausalAttention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)
        nn.init.normal_(self.attn.out_proj.weight, std=(2 * depth * width) ** -0.5)
        nn.init.normal_(self.mlp.get_submodule("c_fc").get_parameter("weight"), std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp.get_submodule("c_proj").get_parameter("weight"), std=(2 * depth * width) ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


@register_head("text_transformer", params=TextTransformerParams)
class TextTransformer(nn.Module):
    """Token ids `(N, L)` to vectors `(N, out_features)`, read at the largest id of each text, its end.

    Parameters have the names of OpenAI's checkpoints (`transformer.resblocks.0.attn.in_proj_weight`, …).

    Example:
        >>> params = TextTransformerParams(context_length=5, width=8, depth=1, num_heads=2, out_features=4)
        >>> tuple(TextTransformer(params)(torch.tensor([[7, 1, 8, 0, 0]])).shape)
        (1, 4)
    """

    def __init__(self, params: TextTransformerParams) -> None:
        super().__init__()
        width, heads = params.width, known(params.num_heads)
        self.positional_embedding = nn.Parameter(torch.randn(known(params.context_length), width) * 0.01)
        self.text_projection = nn.Parameter(torch.randn(width, params.out_features) * width**-0.5)
        blocks = nn.Sequential(*(Block(width, heads, params.depth) for _ in range(params.depth)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.token_embedding = nn.Embedding(params.vocab_size, width)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.transformer["resblocks"](x)
        # The mask is causal and the norm works on each token alone, so only the last token of a text is normalised.
        end = ids.argmax(-1)[:, None, None].expand(-1, -1, x.shape[-1])
        out: torch.Tensor = self.ln_final(x.gather(1, end).squeeze(1)) @ self.text_projection
        return out
