"""`classy_vit`: ClassyVision's vision transformer, on timm's.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); ClassyVision 0.7, `models/vision_transformer.py` (behaviour and
key names); timm >= 1.0.26, `timm.models.vision_transformer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import nn

from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._tokens import TokenFeatures
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.components.trunks.vision_transformer import VisionTransformerFamily, VisionTransformerParams
from graphmodel.spec.fields import Bool

_BLOCK = re.compile(r"encoder\.layers\.layer_(\d+)\.(.*)")
_OUTSIDE = [
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.ln.", "norm."),
]
_INSIDE = [
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("self_attention.in_proj_", "attn.qkv."),
    ("self_attention.out_proj.", "attn.proj."),
    ("mlp.linear_1.", "mlp.fc1."),
    ("mlp.linear_2.", "mlp.fc2."),
]


class ClassyVitParams(VisionTransformerParams):
    """Parameters of a vision transformer; with `classifier: gap` it has no class token and its patches are averaged."""

    qkv_bias: Bool = Field(True, description="ClassyVision's attention always has a bias, whatever is written here.")

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.use_class_token and self.classifier == "token"


@register_trunk("classy_vit")
class ClassyVitFamily(VisionTransformerFamily):
    """timm's vision transformer in ClassyVision's form."""

    Params = ClassyVitParams
    summary = "vision transformers of ClassyVision (timm)"

    def build(self, params: VisionTransformerParams, input_type: str) -> nn.Module:
        token = self.tokens(params).class_token
        return super().build(params.model_copy(update={"qkv_bias": True, "use_class_token": token}), input_type)

    def tokens(self, params: VisionTransformerParams) -> TokenFeatures:
        assert isinstance(params, ClassyVitParams)
        return TokenFeatures(params.num_layers, params.has_class_token)

    def find(self, name: str, params: VisionTransformerParams, trunk: nn.Module) -> Feature | None:
        tokens = self.tokens(params)
        if name in ("avgpool", "flatten"):
            pooled = tokens.find(tokens.default)
            return None if pooled is None else replace(pooled, name=name)
        return tokens.find(name)

    def from_vissl_key(self, key: str, params: VisionTransformerParams) -> str | None:
        key = key.removeprefix("model.")
        block = _BLOCK.fullmatch(key)
        return f"blocks.{block[1]}.{from_vissl(block[2], _INSIDE)}" if block else from_vissl(key, _OUTSIDE)

    def to_vissl_key(self, key: str, params: VisionTransformerParams) -> str | None:
        block = re.fullmatch(r"blocks\.(\d+)\.(.*)", key)
        inner = f"encoder.layers.layer_{block[1]}.{to_vissl(block[2], _INSIDE)}" if block else to_vissl(key, _OUTSIDE)
        return f"model.{inner}"

    def from_vissl_tensors(
        self, tensors: Mapping[str, torch.Tensor], params: VisionTransformerParams
    ) -> dict[str, torch.Tensor]:
        """A checkpoint with ClassyVision's position embedding, `(L, 1, C)`, turned into timm's, `(1, L, C)`."""
        return {
            key: tensor.transpose(0, 1) if key.endswith("encoder.pos_embedding") and tensor.size(1) == 1 else tensor
            for key, tensor in tensors.items()
        }

    def to_vissl_tensors(
        self, tensors: Mapping[str, torch.Tensor], params: VisionTransformerParams
    ) -> dict[str, torch.Tensor]:
        """The way back."""
        return {k: t.transpose(0, 1) if k.endswith("encoder.pos_embedding") else t for k, t in tensors.items()}
