"""A vision transformer by hand, as DINO and iBOT use it: for other image sizes, and with hidden patches.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); Caron et al. 2021 (arXiv:2104.14294); Zhou et al. 2022
(arXiv:2111.07832).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class ViT(nn.Module):
    """Tokens after the last norm, `(N, 1 + L, C)`."""

    def __init__(
        self, size: int, patch: int, width: int, depth: int, heads: int, hidden: int, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.grid, self.patch = size // patch, patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)

    def positions(self, rows: int) -> torch.Tensor:
        """The position embedding of a square grid, resampled if it is not the model's own."""
        if rows == self.grid:
            return self.pos_embed
        own = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        other = F.interpolate(own, size=(rows, rows), mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], other.flatten(2).transpose(1, 2)], 1)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """`hidden` marks patches that a learned embedding replaces."""
        positions = self.positions(x.shape[-1] // self.patch)
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        if hidden is not None:
            patches = patches.clone()
            patches[hidden.flatten(1)] = self.patch_masking["masked_embed"]
        patches = patches + positions[:, 1:]
        tokens = torch.cat([(self.cls_token + positions[:, :1]).expand(len(x), -1, -1), patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class MaskedViT(ViT):
    """A vision transformer with the embedding of hidden patches."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.patch_masking = nn.ParameterDict({"masked_embed": nn.Parameter(torch.zeros(1, self.pos_embed.shape[-1]))})
