"""`swin_transformer`: Swin Transformers for images of any size.

Source: Liu et al. 2021 (arXiv:2103.14030); timm >= 1.0.26, `timm.models.swin_transformer`; VISSL main branch,
`vissl/models/trunks/swin_transformer.py` (other image sizes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from pydantic import Field, model_validator
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import nn
from torch.nn import functional as F

from graphmodel.components.construct import specialize
from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of, image_problem
from graphmodel.components.trunks._transformer import Rate, Scale, set_attention_scale
from graphmodel.spec.fields import Bool, PositiveInt

_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.")


class SwinParams(TrunkParams):
    """Parameters of a Swin Transformer."""

    image_size: PositiveInt = Field(224, description="Usual side of the images; the trunk takes any.")
    patch_size: PositiveInt = Field(4, description="Side of a patch, in pixels.")
    embed_dim: PositiveInt = Field(96, description="Width of the first stage; it doubles with each.")
    depths: list[PositiveInt] = Field([2, 2, 6, 2], min_length=1, description="Blocks of each stage.")
    num_heads: list[PositiveInt] = Field([3, 6, 12, 24], min_length=1, description="Heads of each stage.")
    window_size: PositiveInt = Field(7, description="Side of a window, in patches.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the MLP over the stage's width.")
    dropout_rate: Rate = Field(0.0, description="Dropout after the embedding, attention and MLP.")
    attention_dropout_rate: Rate = Field(0.0, description="Dropout of attention weights.")
    drop_path_rate: Rate = Field(0.1, description="Stochastic depth of the last block; it grows from 0.")
    qkv_bias: Bool = Field(True, description="Bias of queries, keys and values.")
    qk_scale: Scale = Field(None, description="Scale of the attention scores; the default is head width ** -0.5.")

    @model_validator(mode="after")
    def heads_for_every_stage(self) -> SwinParams:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"`depths` has {len(self.depths)} stages and `num_heads` {len(self.num_heads)}"
                "; help: give one number of each per stage"
            )
        for i, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**i % heads:
                raise ValueError(f"stage {i + 1} is {self.embed_dim * 2**i} wide, which {heads} heads cannot share")
        return self


class SlicedWindowAttention(WindowAttention):
    """timm's window attention that also takes smaller windows.

    They use the first rows and columns of the table's index, as VISSL does.
    """

    def position_bias(self, tokens: int) -> torch.Tensor:
        """Biases between the tokens of a window, `(heads, tokens, tokens)`."""
        index = self.get_buffer("relative_position_index")[:tokens, :tokens]
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Windows `(N * windows, tokens, C)` and a mask `(windows, tokens, tokens)` to windows of the same shape."""
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1) + self.position_bias(tokens)
        if mask is not None:
            scores = scores.view(-1, mask.shape[0], self.num_heads, tokens, tokens) + mask[:, None]
            scores = scores.view(-1, self.num_heads, tokens, tokens)
        attention = self.attn_drop(scores.softmax(-1))
        out: torch.Tensor = self.proj_drop(self.proj((attention @ v).transpose(1, 2).reshape(count, tokens, -1)))
        return out


class PaddedBlock(SwinTransformerBlock):
    """timm's block for feature maps of any size.

    A map that is smaller than the window is one window; another is padded to whole windows before it is shifted.
    """

    def _attn(self, x: torch.Tensor) -> torch.Tensor:
        height, width, channels = x.shape[1:]
        window = min(self.window_size[0], height, width)
        shift = self.shift_size[0] if min(height, width) > self.window_size[0] else 0
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1:3]
        x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        windows = window_partition(x, (window, window)).view(-1, window * window, channels)
        windows = self.attn(windows, self.mask_for(x) if shift else None).view(-1, window, window, channels)
        x = window_reverse(windows, (window, window), rows, columns)
        x = torch.roll(x, (shift, shift), (1, 2)) if shift else x
        return x[:, :height, :width].contiguous()

    def mask_for(self, x: torch.Tensor) -> torch.Tensor:
        """Keeps apart what only the shift brought together, `(windows, tokens, tokens)`."""
        stored = self._buffers["attn_mask"]
        native = [side + -side % self.window_size[0] for side in cast(tuple[int, int], self.input_resolution)]
        mask = stored if native == list(x.shape[1:3]) else self.get_attn_mask(x)
        assert mask is not None, "a shifted block has a mask"
        return mask


class ResizingSwin(SwinTransformer):
    """timm's Swin Transformer for images of other sizes; its weights and their names are timm's.

    Attributes:
        pos_drop: dropout after the patch embedding, which timm's does not have.
    """

    def __init__(self, pos_drop_rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        vars(self.patch_embed).update(strict_img_size=False, dynamic_img_pad=True)
        for module in self.modules():
            # The library's own constructors and initialisation have run; only the forward differs.
            if type(module) is SwinTransformerBlock:
                specialize(module, PaddedBlock)
            elif type(module) is WindowAttention:
                specialize(module, SlicedWindowAttention)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 3, H, W)` to the normalised map of the last stage, `(N, h, w, C)`."""
        out: torch.Tensor = self.norm(self.layers(self.pos_drop(self.patch_embed(x))))
        return out


@register_trunk("swin_transformer", "swin_transformer_official")
class SwinFamily(TrunkFamily[SwinParams]):
    """timm's Swin Transformer; `swin_transformer_official` keeps its masks in the state dict, as Microsoft's does."""

    Params = SwinParams
    summary = "Swin Transformers (timm)"
    source = "timm.models.swin_transformer.SwinTransformer"

    def build(self, params: SwinParams, input_type: str) -> nn.Module:
        model = ResizingSwin(
            pos_drop_rate=params.dropout_rate,
            img_size=params.image_size,
            patch_size=params.patch_size,
            in_chans=channels_of(input_type),
            num_classes=0,
            embed_dim=params.embed_dim,
            depths=tuple(params.depths),
            num_heads=tuple(params.num_heads),
            window_size=params.window_size,
            mlp_ratio=params.mlp_ratio,
            qkv_bias=params.qkv_bias,
            proj_drop_rate=params.dropout_rate,
            attn_drop_rate=params.attention_dropout_rate,
            drop_path_rate=params.drop_path_rate,
        )
        set_attention_scale(model, params.qk_scale)
        if self.keeps_masks:
            for block in model.modules():
                if isinstance(block, PaddedBlock):
                    block.register_buffer("attn_mask", block._buffers["attn_mask"])
        return model

    @property
    def keeps_masks(self) -> bool:
        """Whether attention masks belong to the state dict."""
        return self.name == "swin_transformer_official"

    def features(self, params: SwinParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            *(Feature(f"stage{i + 1}", (f"layers.{i}",), layout="nhwc") for i in range(len(params.depths))),
            Feature("lastMAP", ("norm",), layout="nhwc"),
            Feature("pooled", ("norm",), _mean_of_map, ("avgpool", "flatten", "lastCLS", "lastPOOL"), "nc"),
        )

    def check_input(self, params: SwinParams, shape: Sequence[int], trunk: nn.Module) -> str | None:
        return image_problem(shape, trunk.get_parameter("patch_embed.proj.weight"), 1)

    def from_vissl_key(self, key: str, params: SwinParams) -> str | None:
        if key.endswith("relative_position_index") or (key.endswith("attn_mask") and not self.keeps_masks):
            return None
        # VISSL downsamples at the end of a stage, timm at the start of the next.
        return _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", key)

    def to_vissl_key(self, key: str, params: SwinParams) -> str | None:
        return _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", key)


def _mean_of_map(trunk: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return features.mean((1, 2))
