"""`xcit`: cross-covariance image transformers.

Source: El-Nouby et al. 2021 (arXiv:2106.09681); timm >= 1.0.26, `timm.models.xcit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from timm.models.xcit import Xcit
from torch import nn

from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of, image_problem
from graphmodel.components.trunks._tokens import as_map, first_token, mean_of_patches
from graphmodel.components.trunks._transformer import Rate, Scale, set_attention_scale
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.spec.fields import Bool, PositiveInt

_KEYS = [("pos_embeder.", "pos_embed.")]
_CLASS_QKV = re.compile(r"(.*\bcls_attn_blocks\.\d+\.attn\.)qkv\.(weight|bias)")
_CLASS_Q_K_V = re.compile(r"(.*\bcls_attn_blocks\.\d+\.attn\.)[qkv]\.(weight|bias)")


class XcitParams(TrunkParams):
    """Parameters of an XCiT."""

    image_size: PositiveInt = Field(224, description="Usual side of the images; the trunk takes any.")
    patch_size: Literal[8, 16] = Field(16, description="Side of a patch, in pixels.")
    hidden_dim: PositiveInt = Field(384, description="Width of the tokens.")
    num_layers: PositiveInt = Field(12, description="Number of blocks.")
    num_heads: PositiveInt = Field(8, description="Attention heads of each block.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the MLP over `hidden_dim`.")
    dropout_rate: Rate = Field(0.0, description="Dropout after the embedding, attention and MLP.")
    attention_dropout_rate: Rate = Field(0.0, description="Dropout of attention weights.")
    drop_path_rate: Rate = Field(0.05, description="Stochastic depth, the same for all blocks but the class attention.")
    eta: float = Field(1.0, description="Initial layer scale.")
    tokens_norm: Bool = Field(True, description="Class attention normalises all tokens, not the class token alone.")
    qkv_bias: Bool = Field(True, description="Bias of queries, keys and values.")
    qk_scale: Scale = Field(
        None, description="Scale of the class attention's scores; the default is head width ** -0.5."
    )


class ConcreteXcit(Xcit):
    """timm's XCiT with the rows and columns of patches as plain numbers and one position encoding for the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 3, H, W)` to the class token, `(N, C)`."""
        tokens, (rows, columns) = self.patch_embed(x)
        rows, columns = int(rows), int(columns)
        assert self.pos_embed is not None, "every XCiT here encodes positions"
        tokens = self.pos_drop(tokens + self.pos_embed(1, rows, columns).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, rows, columns)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.cls_attn_blocks:
            tokens = block(tokens)
        return self.norm(tokens).select(1, 0)


@register_trunk("xcit", "xcit_fsdp")
class XcitFamily(TrunkFamily[XcitParams]):
    """timm's XCiT with its two class-attention blocks."""

    Params = XcitParams
    summary = "XCiT (timm)"
    source = "timm.models.xcit.Xcit"

    def build(self, params: XcitParams, input_type: str) -> nn.Module:
        model = ConcreteXcit(
            # timm only checks that it is a multiple of the patch size; images of any size are accepted.
            img_size=params.image_size // params.patch_size * params.patch_size or params.patch_size,
            patch_size=params.patch_size,
            in_chans=channels_of(input_type),
            num_classes=0,
            embed_dim=params.hidden_dim,
            depth=params.num_layers,
            num_heads=params.num_heads,
            mlp_ratio=params.mlp_ratio,
            qkv_bias=params.qkv_bias,
            pos_drop_rate=params.dropout_rate,
            proj_drop_rate=params.dropout_rate,
            attn_drop_rate=params.attention_dropout_rate,
            drop_path_rate=params.drop_path_rate,
            eta=params.eta,
            tokens_norm=params.tokens_norm,
        )
        set_attention_scale(model, params.qk_scale)
        return model

    def features(self, params: XcitParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            Feature("lastBLK", ("norm",), layout="nlc"),
            Feature("lastMAP", ("patch_embed", "norm"), partial(as_map, 1, _grid), layout="nhwc"),
            Feature("lastPOOL", ("norm",), partial(mean_of_patches, 1), layout="nc"),
            Feature("lastCLS", ("norm",), first_token, layout="nc"),
        )

    def check_input(self, params: XcitParams, shape: Sequence[int], trunk: nn.Module) -> str | None:
        return image_problem(shape, trunk.get_parameter("patch_embed.proj.0.0.weight"), 1)

    def from_vissl_key(self, key: str, params: XcitParams) -> str | None:
        return from_vissl(key, _KEYS)

    def to_vissl_key(self, key: str, params: XcitParams) -> str | None:
        return to_vissl(key, _KEYS)

    def from_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: XcitParams) -> dict[str, torch.Tensor]:
        """A checkpoint whose class attention has one matrix for queries, keys and values, with three as in timm."""
        out: dict[str, torch.Tensor] = {}
        for key, tensor in tensors.items():
            match = _CLASS_QKV.fullmatch(key)
            if match is None:
                out[key] = tensor
                continue
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{match[1]}{name}.{match[2]}"] = part
        return out

    def to_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: XcitParams) -> dict[str, torch.Tensor]:
        """The inverse: three matrices of the class attention as one."""
        out: dict[str, torch.Tensor] = {}
        for key, tensor in tensors.items():
            match = _CLASS_Q_K_V.fullmatch(key)
            if match is None:
                out[key] = tensor
            else:
                parts = [tensors[f"{match[1]}{name}.{match[2]}"] for name in "qkv"]
                out[f"{match[1]}qkv.{match[2]}"] = torch.cat(parts)
        return out


def _grid(trunk: Any, embedded: Any) -> Sequence[int]:
    """Rows and columns of patches: `patch_embed` returns them beside the tokens."""
    return tuple(int(side) for side in embedded[1])
