"""`convit`: vision transformers whose first layers start as convolutions.

Source: d'Ascoli et al. 2021 (arXiv:2103.10697); timm >= 1.0.26, `timm.models.convit`; VISSL main branch,
`vissl/models/trunks/convit.py` (`locality_dim`, other image sizes).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, model_validator
from timm.models.convit import GPSA, ConVit
from torch import nn

from graphmodel.components.construct import specialize
from graphmodel.components.family import TrunkFamily
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of, image_problem, text_of, whole_patches
from graphmodel.components.trunks._position import for_grid
from graphmodel.components.trunks._tokens import first_token, mean_of_patches
from graphmodel.components.trunks._transformer import SizedViTParams, set_attention_scale
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.spec.fields import Bool, Int, PositiveInt

_BLOCK = re.compile(r"(blocks\.\d+\.)(.*)")
_OUTSIDE = [("class_token", "cls_token"), ("pos_embedding", "pos_embed")]
_INSIDE = [("attn.alpha", "attn.gating_param"), ("mlp.linear_1.", "mlp.fc1."), ("mlp.linear_2.", "mlp.fc2.")]


class ConvitParams(SizedViTParams):
    """Parameters of a ConViT: those of a vision transformer, and what its local layers take."""

    n_gpsa_layers: Int = Field(10, ge=0, description="Layers with gated positional attention, before the class token.")
    class_token_in_local_layers: Bool = Field(False, description="The class token is there from the first layer on.")
    locality_strength: float = Field(1.0, description="How sharply a local layer's heads look at their own pixel.")
    locality_dim: PositiveInt = Field(10, description="Copies of the relative positions; timm's ConViT has 1.")
    use_local_init: Bool = Field(True, description="Local layers start as convolutions.")
    use_class_token: Bool = Field(True, description="A ConViT has one; accepted for VISSL's block, which carries it.")

    @model_validator(mode="after")
    def positions_have_no_class_token(self) -> ConvitParams:
        if self.class_token_in_local_layers and self.n_gpsa_layers:
            raise ValueError(
                "`class_token_in_local_layers` needs a position for the class token, which gated positional attention "
                "does not have; help: leave it out, or set `n_gpsa_layers: 0`"
            )
        return self


class RepeatedPositionsAttention(GPSA):
    """timm's gated positional attention for any square grid, with the relative positions repeated as VISSL does.

    A weight of `pos_proj` reads one copy of a relative position and the score is the mean over the copies, so it is
    the weights' mean that counts; it is taken first, on `(heads, 3)` numbers.
    """

    def widen(self, copies: int) -> None:
        """Gives `pos_proj` a weight for each copy, all with the value that timm gave the single one."""
        single = self.pos_proj
        self.pos_proj = nn.Linear(3 * copies, self.num_heads)
        with torch.no_grad():
            self.pos_proj.weight.copy_(single.weight.repeat_interleave(copies, dim=1))
            self.pos_proj.bias.zero_()

    def position_scores(self, tokens: int) -> torch.Tensor:
        """Scores of relative positions, `(heads, L, L)`."""
        copies = self.pos_proj.in_features // 3
        across, down, distance = self.pos_proj.weight.view(-1, 3, copies).mean(2)[:, :, None, None].unbind(1)
        side = torch.arange(math.isqrt(tokens), device=across.device, dtype=across.dtype)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
        x, y = columns[None, :] - columns[:, None], rows[None, :] - rows[:, None]
        bias = self.pos_proj.bias[:, None, None] / copies
        return across * x + down * y + distance * (x * x + y * y) + bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, L, C)` to `(N, L, C)`."""
        batch, tokens, width = x.shape
        q, k = self.qk(x).reshape(batch, tokens, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        v = self.v(x).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        content = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        position = self.position_scores(tokens).softmax(-1)
        gate = torch.sigmoid(self.gating_param).view(-1, 1, 1)
        attention = (1 - gate) * content + gate * position
        attention = self.attn_drop(attention / attention.sum(-1, keepdim=True))
        out: torch.Tensor = self.proj_drop(self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width)))
        return out


class ResizingConvit(ConVit):
    """timm's ConViT for images of other sizes, and with the class token on request.

    Attributes:
        token_at: the layer before which the class token is put.
    """

    token_at: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 3, H, W)` to normalised tokens, `(N, 1 + L, C)`.

        As in timm and VISSL, there is no class token if every layer is local.
        """
        patch = self.patch_embed.patch_size
        tokens = self.patch_embed(whole_patches(x, patch))
        grid = [side // p for side, p in zip(x.shape[2:], patch, strict=True)]
        tokens = self.pos_drop(tokens + for_grid(self.pos_embed, self.patch_embed.grid_size, grid))
        for i, block in enumerate(self.blocks):
            if i == self.token_at:
                tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
            tokens = block(tokens)
        return self.norm(tokens)


@register_trunk("convit")
class ConvitFamily(TrunkFamily[ConvitParams]):
    """timm's ConViT with VISSL's parameters."""

    Params = ConvitParams
    summary = "ConViT (timm)"
    source = "timm.models.convit.ConVit"

    def build(self, params: ConvitParams, input_type: str) -> nn.Module:
        model = ResizingConvit(
            img_size=params.image_size,
            patch_size=params.patch_size,
            in_chans=channels_of(input_type),
            num_classes=0,
            # timm multiplies it by the number of heads.
            embed_dim=params.hidden_dim // params.num_heads,
            depth=params.num_layers,
            num_heads=params.num_heads,
            mlp_ratio=params.mlp_dim / params.hidden_dim,
            qkv_bias=params.qkv_bias,
            pos_drop_rate=params.dropout_rate,
            proj_drop_rate=params.dropout_rate,
            attn_drop_rate=params.attention_dropout_rate,
            drop_path_rate=params.drop_path_rate,
            norm_layer=nn.LayerNorm,
            local_up_to_layer=params.n_gpsa_layers,
            locality_strength=params.locality_strength,
        )
        model.token_at = 0 if params.class_token_in_local_layers else params.n_gpsa_layers
        model.num_prefix_tokens = int(model.token_at < params.num_layers)
        model.patch_embed.strict_img_size = False
        for block in model.blocks:
            if isinstance(block.attn, GPSA):
                self.adapt(block.attn, params)
        set_attention_scale(model, params.qk_scale)
        return model

    def adapt(self, attention: GPSA, params: ConvitParams) -> None:
        """Turns timm's attention into VISSL's, its initial function unchanged."""
        del attention.rel_indices
        specialize(attention, RepeatedPositionsAttention)
        assert isinstance(attention, RepeatedPositionsAttention)
        if params.locality_dim > 1:
            attention.widen(params.locality_dim)
        if not params.use_local_init:
            nn.init.trunc_normal_(attention.v.weight, std=0.02)
            nn.init.trunc_normal_(attention.pos_proj.weight, std=0.02)

    def features(self, params: ConvitParams, trunk: nn.Module) -> Sequence[Feature]:
        compute = first_token if params.classifier == "token" else mean_of_patches_and_token
        aliases = ("avgpool", "flatten", "lastCLS" if params.classifier == "token" else "lastPOOL")
        return Feature("lastBLK", ("norm",), layout="nlc"), Feature("pooled", ("norm",), compute, aliases, "nc")

    def check_input(self, params: ConvitParams, shape: Sequence[int], trunk: nn.Module) -> str | None:
        problem = image_problem(shape, trunk.get_parameter("patch_embed.proj.weight"), params.patch_size)
        if problem is None and params.n_gpsa_layers and shape[1] // params.patch_size != shape[2] // params.patch_size:
            return f"ConViT's gated positional attention takes square images and the input is {text_of(shape)}"
        return problem

    def from_vissl_key(self, key: str, params: ConvitParams) -> str | None:
        block = _BLOCK.fullmatch(key)
        return block[1] + from_vissl(block[2], _INSIDE) if block else from_vissl(key, _OUTSIDE)

    def to_vissl_key(self, key: str, params: ConvitParams) -> str | None:
        block = _BLOCK.fullmatch(key)
        return block[1] + to_vissl(block[2], _INSIDE) if block else to_vissl(key, _OUTSIDE)

    def from_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: ConvitParams) -> dict[str, torch.Tensor]:
        """A checkpoint with VISSL's gates, `(1, heads, 1, 1)`, in timm's form, `(heads,)`."""
        return {k: t.flatten() if k.endswith(".attn.alpha") else t for k, t in tensors.items()}

    def to_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: ConvitParams) -> dict[str, torch.Tensor]:
        """The way back."""
        return {k: t.view(1, -1, 1, 1) if k.endswith(".attn.alpha") else t for k, t in tensors.items()}


def mean_of_patches_and_token(trunk: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The mean over all tokens, as in VISSL."""
    return mean_of_patches(0, trunk, tokens)
