"""`siamese_concat_view`: joins the towers of one sample, as in Jigsaw and PIRL.

Source: VISSL 0.1.6, `vissl/models/heads/siamese_concat_view.py`; Noroozi & Favaro 2016 (arXiv:1603.09246).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from graphmodel.components.head import HeadParams
from graphmodel.components.registry import register_head
from graphmodel.spec.fields import PositiveInt


class SiameseParams(HeadParams):
    """How many consecutive rows of the batch belong to one sample."""

    num_towers: PositiveInt = Field(description="Rows per sample.")

    def batch_multiple(self) -> int:
        return self.num_towers


@register_head("siamese_concat_view", params=SiameseParams)
class SiameseConcatView(nn.Module):
    """`(N * num_towers, C)` or `(N * num_towers, C, 1, 1)` to `(N, num_towers * C)`.

    A batch that is not a multiple of `num_towers` raises `RuntimeError`.
    """

    def __init__(self, params: SiameseParams) -> None:
        super().__init__()
        self.num_towers = params.num_towers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.size(0) // self.num_towers, self.num_towers * x[0].numel())
