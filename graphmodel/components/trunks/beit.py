"""`beit`: BEiT.

Source: Bao et al. 2022 (arXiv:2106.08254); timm >= 1.0.26, `timm.models.beit`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from timm.models.beit import Beit
from torch import nn

from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of, image_problem, text_of
from graphmodel.components.trunks._tokens import TokenFeatures, grid_of_trunk
from graphmodel.components.trunks._transformer import Rate, Scale, set_attention_scale
from graphmodel.spec.fields import Bool, PositiveInt


class BeitParams(TrunkParams):
    """Parameters of a BEiT."""

    image_size: PositiveInt = Field(224, description="Side of the images; the trunk takes no other.")
    patch_size: PositiveInt = Field(16, description="Side of a patch, in pixels.")
    num_layers: PositiveInt = Field(12, description="Number of blocks.")
    num_heads: PositiveInt = Field(12, description="Attention heads of each block.")
    hidden_dim: PositiveInt = Field(768, description="Width of the tokens.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the MLP over `hidden_dim`.")
    dropout_rate: Rate = Field(0.0, description="Dropout after the embedding, attention and MLP.")
    attention_dropout_rate: Rate = Field(0.0, description="Dropout of attention weights.")
    drop_path_rate: Rate = Field(0.0, description="Stochastic depth of the last block; it grows from 0.")
    qkv_bias: Bool = Field(False, description="Bias of queries and values.")
    qk_scale: Scale = Field(None, description="Scale of the attention scores; the default is head width ** -0.5.")
    use_abs_pos_emb: Bool = Field(True, description="A learned position embedding.")
    use_rel_pos_bias: Bool = Field(False, description="A table of relative position biases in every block.")
    use_shared_rel_pos_bias: Bool = Field(False, description="One such table for all blocks.")
    use_mean_pooling: Bool = Field(True, description="Leave the final norm out, as VISSL does if this is set.")
    init_values: Scale = Field(None, description="Initial layer scale; none by default.")


@register_trunk("beit")
class BeitFamily(TrunkFamily[BeitParams]):
    """timm's BEiT; its features are those of a vision transformer."""

    Params = BeitParams
    summary = "BEiT (timm)"
    source = "timm.models.beit.Beit"

    def build(self, params: BeitParams, input_type: str) -> nn.Module:
        model = Beit(
            img_size=params.image_size,
            patch_size=params.patch_size,
            in_chans=channels_of(input_type),
            num_classes=0,
            global_pool="avg" if params.use_mean_pooling else "token",
            embed_dim=params.hidden_dim,
            depth=params.num_layers,
            num_heads=params.num_heads,
            mlp_ratio=params.mlp_ratio,
            qkv_bias=params.qkv_bias,
            pos_drop_rate=params.dropout_rate,
            proj_drop_rate=params.dropout_rate,
            attn_drop_rate=params.attention_dropout_rate,
            drop_path_rate=params.drop_path_rate,
            init_values=params.init_values,
            use_abs_pos_emb=params.use_abs_pos_emb,
            use_rel_pos_bias=params.use_rel_pos_bias,
            use_shared_rel_pos_bias=params.use_shared_rel_pos_bias,
        )
        set_attention_scale(model, params.qk_scale)
        return model

    def tokens(self, params: BeitParams) -> TokenFeatures:
        """The names of this trunk's features."""
        return TokenFeatures(params.num_layers, grid=grid_of_trunk)

    def features(self, params: BeitParams, trunk: nn.Module) -> Sequence[Feature]:
        return self.tokens(params).named()

    def find(self, name: str, params: BeitParams, trunk: nn.Module) -> Feature | None:
        return self.tokens(params).find(name)

    def normed(self, feature: Feature, params: BeitParams, trunk: nn.Module, norm: bool) -> Feature | None:
        return self.tokens(params).normed(feature, norm)

    def check_input(self, params: BeitParams, shape: Sequence[int], trunk: nn.Module) -> str | None:
        problem = image_problem(shape, trunk.get_parameter("patch_embed.proj.weight"), params.patch_size)
        if problem is None and set(shape[1:]) != {params.image_size}:
            size = params.image_size
            return (
                f"BEiT takes images of one size, {size}×{size}, and the input is {text_of(shape)}: "
                "set the trunk's `image_size`"
            )
        return problem

    def from_vissl_key(self, key: str, params: BeitParams) -> str | None:
        return None if key.endswith("relative_position_index") else key

    def to_vissl_key(self, key: str, params: BeitParams) -> str | None:
        return None if key.startswith("fc_norm.") else key
