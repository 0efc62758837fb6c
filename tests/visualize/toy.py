"""A transformer as small as can be, with the parts that make real ones hard to draw: a class token, equal blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from graphmodel import Feature, TrunkFamily, register_trunk


class Block(nn.Module):
    """A residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.mlp(self.norm(x))
        return out


class ToyTransformer(nn.Module):
    """Patches, a class token, positions, blocks, a norm and a classifier."""

    def __init__(self, blocks: int = 12, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = self.norm(self.blocks(x))
        out: torch.Tensor = self.classifier(x[:, 0])
        return out


def first_token(trunk: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0]


class ToyParams(BaseModel):
    """How many blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    blocks: int = 12


@register_trunk("toy_transformer")
class ToyFamily(TrunkFamily[ToyParams]):
    """The toy transformer."""

    Params = ToyParams

    def build(self, params: ToyParams, input_type: str) -> nn.Module:
        return ToyTransformer(params.blocks)

    def features(self, params: ToyParams, trunk: Any) -> Sequence[Feature]:
        blocks = [Feature(f"block{i}", (f"blocks.{i}",), first_token, layout="nc") for i in range(params.blocks)]
        return (*blocks, Feature("last", ("norm",), first_token, layout="nc"))
