"""Position embeddings of one grid of patches, resized for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.nn import functional as F
from torch.overrides import handle_torch_function


def for_grid(
    embedding: torch.Tensor,
    stored: Sequence[int],
    wanted: Sequence[int],
    prefix: int = 0,
    *,
    antialias: bool = False,
) -> torch.Tensor:
    """A learned position embedding for a grid of `wanted` patches.

    If the grids agree it is the embedding itself. Otherwise the part of the patches is resampled bicubically and
    the tokens before it stay as they are. The sampling points are those of the exact ratio of the grids, as in VISSL;
    DINO's own code adds 0.1 to `wanted` in its scale factor, which moves them. `torch.fx` records it as one call.

    Args:
        embedding: `(1, prefix + H * W, C)`.
        stored: rows and columns of the embedding's own grid.
        wanted: rows and columns of the grid it is for.
        prefix: the number of tokens before the patches.
        antialias: as in `torch.nn.functional.interpolate`; VISSL and DINO do without, timm's loader does not.

    Returns:
        `(1, prefix + h * w, C)`.

    Source: VISSL main branch, `interpolate_pos_encoding` of its transformers (numbers).
    """
    if isinstance(embedding, fx.Proxy):
        given = (embedding, stored, wanted, *([prefix] if prefix else []))
        return handle_torch_function(for_grid, (embedding,), *given, **({"antialias": True} if antialias else {}))
    if tuple(wanted) == tuple(stored):
        return embedding
    patches = embedding[:, prefix:] if prefix else embedding
    grid = torch.unflatten(patches, 1, tuple(stored)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(wanted), mode="bicubic", antialias=antialias)
    patches = grid.flatten(2).transpose(1, 2)
    return torch.cat([embedding[:, :prefix], patches], dim=1) if prefix else patches
