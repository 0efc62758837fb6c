"""What the families of transformers share: the parameters of a vision transformer, and the scale of its attention."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from graphmodel.components.family import TrunkParams
from graphmodel.spec.fields import Bool, PositiveInt

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A dropout rate."""
Scale = Annotated[float | None, BeforeValidator(lambda value: None if value is False else value)]
"""A number or null, which VISSL writes as `False`."""

_SIZES = ("patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim")
VARIANTS = {
    name: dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "vit_b_32": (32, 12, 12, 768, 3072),
        "vit_b_16": (16, 12, 12, 768, 3072),
        "vit_l_32": (32, 24, 16, 1024, 4096),
        "vit_l_16": (16, 24, 16, 1024, 4096),
        "vit_h_14": (14, 32, 16, 1280, 5120),
    }.items()
}


class SizedViTParams(TrunkParams):
    """The sizes of a vision transformer, or the name of a published one."""

    variant: Literal["vit_b_32", "vit_b_16", "vit_l_32", "vit_l_16", "vit_h_14"] | None = Field(
        None, description="A published size; it overrides `patch_size`, layers, heads and widths."
    )
    image_size: PositiveInt = Field(224, description="Side of the images that the position embedding is stored for.")
    patch_size: PositiveInt = Field(16, description="Side of a patch, in pixels.")
    num_layers: PositiveInt = Field(12, description="Number of blocks.")
    num_heads: PositiveInt = Field(12, description="Attention heads of each block.")
    hidden_dim: PositiveInt = Field(768, description="Width of the tokens.")
    mlp_dim: PositiveInt = Field(3072, description="Width of the MLP in each block.")
    dropout_rate: Rate = Field(0.0, description="Dropout after the embedding, attention and MLP.")
    attention_dropout_rate: Rate = Field(0.0, description="Dropout of attention weights.")
    classifier: Literal["token", "gap"] = Field(
        "token", description="The default feature: the class token, or the mean over tokens (`gap`)."
    )
    drop_path_rate: Rate = Field(0.0, description="Stochastic depth of the last block; it grows from 0.")
    qkv_bias: Bool = Field(False, description="Bias of queries, keys and values.")
    qk_scale: Scale = Field(None, description="Scale of the attention scores; the default is head width ** -0.5.")

    @model_validator(mode="before")
    @classmethod
    def variant_overrides_sizes(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("variant") in VARIANTS:
            return {**values, **VARIANTS[values["variant"]]}
        return values

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> SizedViTParams:
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"`hidden_dim` {self.hidden_dim} cannot be shared among {self.num_heads} heads"
                "; help: let `num_heads` divide `hidden_dim`"
            )
        return self


def set_attention_scale(model: nn.Module, scale: float | None) -> None:
    """Gives every attention module of a timm transformer another scale; None leaves the library's."""
    if scale is None:
        return
    for module in model.modules():
        if hasattr(module, "attn_drop") and hasattr(module, "scale"):
            module.scale = scale  # type: ignore[assignment]
            # timm's fused path always takes the usual scale.
            module.fused_attn = False  # type: ignore[assignment]
