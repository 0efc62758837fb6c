"""CLIP's text encoder by hand, on torch's own attention.

Source: Radford et al. 2021 (arXiv:2103.00020, section 2.4).
"""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Tokens `(L, N, C)`."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden / (1 + torch.exp(-1.702 * hidden)))


class TextEncoder(nn.Module):
    """Token ids `(N, L)` to vectors `(N, out)`; a text ends at its largest id."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, out: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.text_projection = nn.Parameter(torch.zeros(width, out))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(width, heads) for _ in range(depth))})
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.ln_final = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        x = (self.token_embedding(ids) + self.positional_embedding[:length]).transpose(0, 1)
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        x = self.ln_final(x)
        ends = [text.index(max(text)) for text in ids.tolist()]
        return torch.stack([x[end, i] for i, end in enumerate(ends)]) @ self.text_projection


def texts(count: int, length: int, vocabulary: int) -> torch.Tensor:
    """Token ids: a start, tokens, one end (the largest id), and zeros."""
    ids = torch.randint(1, vocabulary - 2, (count, length))
    ids[:, 0] = vocabulary - 2
    for row in range(count):
        end = row % (length - 2) + 1
        ids[row, end] = vocabulary - 1
        ids[row, end + 1 :] = 0
    return ids
