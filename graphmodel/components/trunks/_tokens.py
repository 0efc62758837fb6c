"""The feature names of trunks that carry a sequence of tokens, as VISSL and DINO spell them.

`blkCLS3` is the class token behind block 3, `concatCLS4` those of the last four blocks side by side, `lastBLK` all
tokens, `lastMAP` the patches as a map `(N, H, W, C)`, `lastPOOL` their mean. Each has gone through the trunk's
final norm, unless the spec says `norm: false`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from graphmodel.components.features import Feature

Grid = Callable[[Any, Any], Sequence[int]]
"""Rows and columns of the patch grid, read from the trunk and the output of its `patch_embed`."""

_OPEN_ENDED = re.compile(r"(blkCLS|concatCLS|concatBLK|concatPOOL|stridePOOL_)(\d+)(?:_(\d+))?")


def grid_of_map(trunk: Any, embedded: Any) -> Sequence[int]:
    """The grid if `patch_embed` returns a map `(N, H, W, C)`."""
    return tuple(embedded.shape[1:3])


def grid_of_trunk(trunk: Any, embedded: Any) -> Sequence[int]:
    """The grid of a trunk that takes images of one size only."""
    return tuple(trunk.patch_embed.grid_size)


@dataclass(frozen=True)
class TokenFeatures:
    """The features of a trunk with `patch_embed`, `blocks` and `norm`.

    Attributes:
        depth: how many blocks it has.
        class_token: whether the first token is a class token.
        grid: how the rows and columns of patches are found.
    """

    depth: int
    class_token: bool = True
    grid: Grid = grid_of_map

    @property
    def default(self) -> str:
        """The default feature."""
        return "lastCLS" if self.class_token else "lastPOOL"

    def named(self) -> list[Feature]:
        """The features with fixed names, in the order of the trunk."""
        classes = [self.find(f"blkCLS{i}") for i in range(self.depth)] if self.class_token else []
        last = ["lastBLK", "lastMAP", "lastPOOL", *(["lastCLS"] if self.class_token else [])]
        return [f for f in (*classes, *(self.find(name) for name in last)) if f is not None]

    def find(self, name: str, norm: bool = True) -> Feature | None:
        """The feature of that name; None if there is none, such as the class token of a trunk without one.

        Args:
            name: what specs call it.
            norm: apply the trunk's final norm; without it the feature's name ends in `_raw`.
        """
        feature = self._last(name, norm) or self._open_ended(name, norm)
        return feature if norm or feature is None else replace(feature, name=f"{name}_raw")

    def normed(self, feature: Feature, norm: bool) -> Feature | None:
        """One of these features, or a block's output, with or without the trunk's final norm."""
        if self.find(feature.name) is not None:
            return feature if norm else self.find(feature.name, norm=False)
        if feature.compute is not None or not feature.taps[:1] or not feature.taps[0].startswith("blocks."):
            return None
        return replace(feature, name=f"{feature.name}_norm", compute=_all_tokens) if norm else feature

    def _last(self, name: str, norm: bool) -> Feature | None:
        end = "norm" if norm else f"blocks.{self.depth - 1}"
        skip = 1 if self.class_token else 0
        if name == "lastBLK":
            return Feature(name, (end,), layout="nlc")
        if name == "lastMAP":
            return Feature(name, ("patch_embed", end), partial(as_map, skip, self.grid), layout="nhwc")
        if name == "lastPOOL":
            return Feature(name, (end,), partial(mean_of_patches, skip), layout="nc")
        if name == "lastCLS" and self.class_token:
            return Feature(name, (end,), first_token, layout="nc")
        return None

    def _open_ended(self, name: str, norm: bool) -> Feature | None:
        match = _OPEN_ENDED.fullmatch(name)
        if match is None:
            return None
        kind, first, second = match.groups()
        blocks = self._blocks(kind, int(first), None if second is None else int(second))
        if not blocks or (kind.endswith("CLS") and not self.class_token):
            return None
        taps = tuple(f"blocks.{i}" for i in blocks)
        if kind.endswith("CLS"):
            return Feature(name, taps, partial(_classes, norm=norm), layout="nc")
        if kind == "concatBLK":
            return Feature(name, taps, partial(_all_tokens, norm=norm), layout="nlc")
        return Feature(name, taps, partial(_means, 1 if self.class_token else 0, norm=norm), layout="nc")

    def _blocks(self, kind: str, number: int, stride: int | None) -> list[int]:
        """The blocks that a name refers to, in the order of concatenation."""
        every = list(range(self.depth))
        if kind == "stridePOOL_":
            if number == 0 or stride == 0:
                return []
            step = stride or -(-self.depth // number)
            return every[::-step][:number]
        if stride is not None:
            return []
        if kind == "blkCLS":
            return every[number : number + 1]
        return every[-number:]


def first_token(trunk: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """`(N, L, C)` to the class token, `(N, C)`."""
    return tokens.select(1, 0)


def mean_of_patches(skip: int, trunk: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """`(N, skip + L, C)` to the mean of the last L tokens, `(N, C)`."""
    patches = tokens[:, skip:] if skip else tokens
    return patches.mean(1)


def as_map(skip: int, grid: Grid, trunk: nn.Module, embedded: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """`(N, skip + H * W, C)` to the map of the patches, `(N, H, W, C)`."""
    patches = tokens[:, skip:] if skip else tokens
    return torch.unflatten(patches, 1, tuple(grid(trunk, embedded)))


def _classes(trunk: Any, *blocks: torch.Tensor, norm: bool) -> torch.Tensor:
    # The norm acts on each token separately, so it is applied to the first token only.
    return _side_by_side([_normed(trunk, tokens.select(1, 0), norm) for tokens in blocks])


def _all_tokens(trunk: Any, *blocks: torch.Tensor, norm: bool = True) -> torch.Tensor:
    return _side_by_side([_normed(trunk, tokens, norm) for tokens in blocks])


def _means(skip: int, trunk: Any, *blocks: torch.Tensor, norm: bool) -> torch.Tensor:
    return _side_by_side([mean_of_patches(skip, trunk, _normed(trunk, tokens, norm)) for tokens in blocks])


def _normed(trunk: Any, tokens: torch.Tensor, norm: bool) -> torch.Tensor:
    out: torch.Tensor = trunk.norm(tokens) if norm else tokens
    return out


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(tensors), dim=-1) if len(tensors) > 1 else tensors[0]
