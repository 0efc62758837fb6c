"""Features made of a pooled map: flattened, or of unit length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def flatten(trunk: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
    """`(N, C, 1, 1)` to `(N, C)`."""
    return torch.flatten(pooled, 1)


def flatten_and_normalize(trunk: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
    """`(N, C, 1, 1)` to `(N, C)` of unit length."""
    return F.normalize(torch.flatten(pooled, 1), dim=-1)


def normalize(trunk: nn.Module, vector: torch.Tensor) -> torch.Tensor:
    """`(N, C)` of unit length."""
    return F.normalize(vector, dim=-1)
