"""Position embeddings of learned grids: found by name, measured, and resized to another grid of patches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import gcd, isqrt

import torch
from torch import nn
from torch.nn import functional as F

from graphmodel.components.trunks._position import for_grid

Grid = tuple[int, int]
MAX_PREFIX_TOKENS = 32
_ONE_AXIS = re.compile(r"_(x|y|h|w|t|time|temporal)$")


def is_position_embedding(key: str) -> bool:
    """Whether the last part of a key is the name of a learned position embedding of a grid.

    Tables of one axis (`pos_embed_x`, `pos_embed_temporal`) are none.
    """
    name = key.rpartition(".")[2]
    return "pos_embed" in name and _ONE_AXIS.search(name) is None


def is_in_blocks(root: nn.Module, key: str) -> bool:
    """Whether an embedding of four dimensions is `(1, blocks, positions, C)` and not a map, as in timm's NesT."""
    try:
        owner = root.get_submodule(key.rpartition(".")[0])
    except AttributeError:
        return False
    return hasattr(owner, "block_size")


def grid_of(root: nn.Module, key: str, tokens: int, images: Iterable[Grid] = ()) -> Grid | None:
    """Rows and columns of patches that a position embedding is for.

    Args:
        root: the trunk.
        key: the embedding's key in the trunk.
        tokens: how many tokens the embedding has, class and register tokens included.
        images: heights and widths of the images that the trunk reads, if they are known.

    Returns:
        The grid that the trunk says (`patch_embed.grid_size`, `tokens_spatial_shape` as in Hiera, or `image_size` and
        `patch_size` as in torchvision), else the one with the proportions of the images, or of a square image if they
        are not known; None if neither fits the number of tokens.
    """
    path = key.split(".")[:-1]
    for end in range(len(path), -1, -1):
        try:
            owner = root.get_submodule(".".join(path[:end]))
        except AttributeError:
            continue
        grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
        grid = getattr(owner, "tokens_spatial_shape", None) if grid is None else grid
        image, patch = getattr(owner, "image_size", None), getattr(owner, "patch_size", None)
        if grid is None and isinstance(image, int) and isinstance(patch, int) and patch:
            grid = (image // patch, image // patch)
        if isinstance(grid, (tuple, list)) and len(grid) == 2 and 0 <= tokens - grid[0] * grid[1] <= MAX_PREFIX_TOKENS:
            return int(grid[0]), int(grid[1])
    proportions = {(h // gcd(h, w), w // gcd(h, w)) for h, w in images} or {(1, 1)}
    if len(proportions) > 1:
        return None
    rows, columns = proportions.pop()
    for prefix in (0, 1, 2):
        side = isqrt(max(tokens - prefix, 0) // (rows * columns))
        if side and side * side * rows * columns == tokens - prefix:
            return side * rows, side * columns
    return None


def resize(
    tensor: torch.Tensor, shape: torch.Size, grid: Grid | None, stored: Grid | None, antialias: bool
) -> torch.Tensor | None:
    """A position embedding for another grid of patches (bicubic); class and register tokens are kept.

    Args:
        tensor: `(1, tokens, C)`, or `(1, H, W, C)` or `(1, C, H, W)` without further tokens.
        shape: the shape that is wanted, of the same form.
        grid: rows and columns that are wanted; not needed for the forms with four dimensions.
        stored: rows and columns of `tensor`; a square if None.
        antialias: as in `torch.nn.functional.interpolate`.

    Returns:
        The embedding in the tensor's dtype, or None if the two do not differ by their grids alone. For three
        dimensions it equals `timm.layers.resample_abs_pos_embed` with the same `antialias`.
    """
    if tensor.ndim != len(shape) or not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    if len(shape) == 4:
        return _resize_map(tensor, shape, antialias)
    if len(shape) != 3 or (tensor.shape[0], tensor.shape[2]) != (shape[0], shape[2]) or shape[0] != 1 or grid is None:
        return None
    prefix = shape[1] - grid[0] * grid[1]
    patches = tensor.shape[1] - prefix
    side = isqrt(max(patches, 0))
    stored = stored or (side, side)
    if patches <= 0 or stored[0] * stored[1] != patches:
        return None
    return for_grid(tensor.float(), stored, grid, prefix, antialias=antialias).to(tensor.dtype)


def fitted(
    tensor: torch.Tensor, name: str, shape: torch.Size, copy: nn.Module, original: nn.Module
) -> torch.Tensor | None:
    """A tensor of the original in the shape that a copy for another image size has; None if it has no such form.

    Args:
        tensor: the original's tensor.
        name: its key in both.
        shape: the shape of the copy's.
        copy: the module that wants it.
        original: the module that has it.
    """
    if not is_position_embedding(name):
        return tensor if tensor.shape == shape else None
    grids = [grid_of(m, name, s[1]) if len(s) == 3 else None for m, s in ((copy, shape), (original, tensor.shape))]
    if tensor.shape == shape and grids[0] == grids[1]:  # 2×8 patches are as many as 4×4
        return tensor
    if is_in_blocks(copy, name):
        return None
    with torch.no_grad():
        return resize(tensor, shape, grids[0], grids[1], antialias=False)


def _resize_map(tensor: torch.Tensor, shape: torch.Size, antialias: bool) -> torch.Tensor | None:
    def resampled(maps: torch.Tensor, size: Grid) -> torch.Tensor:
        return F.interpolate(maps.float(), size=size, mode="bicubic", antialias=antialias).to(tensor.dtype)

    if tensor.shape[:2] == shape[:2]:
        return resampled(tensor, (shape[2], shape[3]))
    if (tensor.shape[0], tensor.shape[3]) == (shape[0], shape[3]):
        return resampled(tensor.permute(0, 3, 1, 2), (shape[1], shape[2])).permute(0, 2, 3, 1)
    return None
