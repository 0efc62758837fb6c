"""`vision_transformer`: ViT and DeiT of any size, with masked tokens (iBOT) or dropped ones (MSN).

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), Touvron et al. 2021 (arXiv:2012.12877), Zhou et al. 2022
(arXiv:2111.07832), Assran et al. 2022 (arXiv:2204.07141); timm >= 1.0.26, `timm.models.vision_transformer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from graphmodel.components.family import TrunkFamily
from graphmodel.components.features import Feature
from graphmodel.components.params import Params
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of, image_problem, whole_patches
from graphmodel.components.trunks._position import for_grid
from graphmodel.components.trunks._tokens import TokenFeatures
from graphmodel.components.trunks._transformer import Rate, SizedViTParams, set_attention_scale
from graphmodel.spec.fields import Bool, PositiveInt


class MaskingParams(Params):
    """What `masked_image_modeling` takes besides its name."""

    drop_ratio: Rate = Field(0.0, description="MSN: the share of patches that is dropped.")
    global_view_tokens: PositiveInt = Field(196, description="MSN: views with fewer patches keep them all.")


class MaskedImageModeling(Params):
    """Masking of patches: `ibot` replaces those that the input `mask` marks, `msn` drops some at random."""

    name: Annotated[Literal["ibot", "msn"] | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="The method; none by default."
    )
    params: MaskingParams = Field(MaskingParams(), description="What MSN drops.")


class VisionTransformerParams(SizedViTParams):
    """Parameters of a vision transformer."""

    use_class_token: Bool = Field(True, description="Without one the default feature is the mean of the patches.")
    masked_image_modeling: MaskedImageModeling = Field(
        MaskedImageModeling(), description="Masked or dropped patches, as in iBOT and MSN."
    )


class PatchMasking(nn.Module):
    """Replaces masked patches by a learned embedding, as iBOT does.

    Attributes:
        masked_embed: the embedding, `(1, C)`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.masked_embed = nn.Parameter(torch.zeros(1, width))

    def forward(self, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(N, L, C)` patches and a boolean mask `(N, H, W)` or `(N, L)`, true for hidden patches."""
        return torch.where(mask.flatten(1).unsqueeze(-1), self.masked_embed.to(patches.dtype), patches)


class PatchDropping(nn.Module):
    """Keeps a random share of the patches, the same for the whole batch, in eval mode too, as MSN does.

    The first token is always kept. Views with fewer than `global_view_tokens` patches (MSN's focal views) are left
    alone.
    """

    def __init__(self, params: MaskingParams) -> None:
        super().__init__()
        self.drop_prob, self.global_view_tokens = params.drop_ratio, params.global_view_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens.size(1) - 1
        if patches < self.global_view_tokens or self.drop_prob <= 0:
            return tokens
        kept = 1 + torch.randperm(patches, device=tokens.device)[: int(patches * (1 - self.drop_prob))]
        return torch.cat([tokens[:, :1], tokens[:, kept]], dim=1)


class ResizingVisionTransformer(VisionTransformer):
    """timm's vision transformer with DINO's position embeddings for other image sizes, and masking.

    Its weights and their names are timm's; iBOT adds `patch_masking.masked_embed`.
    """

    def __init__(self, masking: MaskedImageModeling, **options: Any) -> None:
        super().__init__(**options, dynamic_img_size=True)
        self.patch_masking = PatchMasking(self.embed_dim) if masking.name == "ibot" else None
        self.patch_dropping = PatchDropping(masking.params) if masking.name == "msn" else None

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """`(N, 3, H, W)` to the class token, or the mean of the patches, `(N, C)`."""
        tokens = self.norm(self.blocks(self.embed(x, mask)))
        return tokens.select(1, 0) if self.has_class_token else tokens.mean(1)

    def embed(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The sequence of tokens that enters the first block, `(N, 1 + L, C)`."""
        tokens = self.patch_embed(whole_patches(x, self.patch_embed.patch_size))
        grid = tuple(tokens.shape[1:3])
        tokens = tokens.flatten(1, 2)
        if mask is not None:
            if self.patch_masking is None:
                raise ValueError("a mask is given and `masked_image_modeling` is not `ibot`")
            tokens = self.patch_masking(tokens, mask)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        assert self.pos_embed is not None, "every vision transformer here has a learned position embedding"
        tokens = tokens + for_grid(self.pos_embed, self.patch_embed.grid_size, grid, self.num_prefix_tokens)
        tokens = self.pos_drop(tokens)
        return tokens if self.patch_dropping is None else self.patch_dropping(tokens)


@register_trunk("vision_transformer", "vision_transformer_fsdp")
class VisionTransformerFamily(TrunkFamily[VisionTransformerParams]):
    """timm's vision transformer, with VISSL's feature names and masking."""

    Params = VisionTransformerParams
    summary = "vision transformers (timm): ViT, DeiT, DINO, MAE, iBOT, MSN"
    source = "timm.models.vision_transformer.VisionTransformer"

    def build(self, params: VisionTransformerParams, input_type: str) -> nn.Module:
        model = ResizingVisionTransformer(
            params.masked_image_modeling,
            img_size=params.image_size,
            patch_size=params.patch_size,
            in_chans=channels_of(input_type),
            num_classes=0,
            global_pool="token" if params.use_class_token else "avg",
            fc_norm=False,
            embed_dim=params.hidden_dim,
            depth=params.num_layers,
            num_heads=params.num_heads,
            mlp_ratio=params.mlp_dim / params.hidden_dim,
            qkv_bias=params.qkv_bias,
            class_token=params.use_class_token,
            pos_drop_rate=params.dropout_rate,
            proj_drop_rate=params.dropout_rate,
            attn_drop_rate=params.attention_dropout_rate,
            drop_path_rate=params.drop_path_rate,
        )
        set_attention_scale(model, params.qk_scale)
        return model

    def tokens(self, params: VisionTransformerParams) -> TokenFeatures:
        """The names of this trunk's features."""
        return TokenFeatures(params.num_layers, params.use_class_token)

    def features(self, params: VisionTransformerParams, trunk: nn.Module) -> Sequence[Feature]:
        return self.tokens(params).named()

    def default(self, params: VisionTransformerParams, trunk: nn.Module) -> str:
        # VISSL's `vision_transformer` reads the class token whatever `classifier` says; its ClassyVision twin does not.
        return "lastPOOL" if params.classifier == "gap" else self.tokens(params).default

    def find(self, name: str, params: VisionTransformerParams, trunk: nn.Module) -> Feature | None:
        return self.tokens(params).find(name)

    def normed(self, feature: Feature, params: VisionTransformerParams, trunk: nn.Module, norm: bool) -> Feature | None:
        return self.tokens(params).normed(feature, norm)

    def check_input(self, params: VisionTransformerParams, shape: Sequence[int], trunk: nn.Module) -> str | None:
        return image_problem(shape, trunk.get_parameter("patch_embed.proj.weight"), params.patch_size)

    def from_vissl_key(self, key: str, params: VisionTransformerParams) -> str | None:
        return key

    def to_vissl_key(self, key: str, params: VisionTransformerParams) -> str | None:
        return key
