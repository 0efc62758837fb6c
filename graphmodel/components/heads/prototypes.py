"""`prototypes`: scores of normalised embeddings against learned prototypes.

Source: Caron et al. 2020 (SwAV, arXiv:2006.09882; facebookresearch/swav, `src/resnet50.py`, `MultiPrototypes`: a linear
layer without bias, whose rows the trainer normalises after each step) and Caron et al. 2021 (DINO, arXiv:2104.14294;
facebookresearch/dino, `vision_transformer.py`, `DINOHead.last_layer`: weight normalisation, with lengths fixed at 1).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, token_width
from graphmodel.components.heads.dino_head import WeightNormLinear
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class PrototypesParams(HeadParams):
    """Prototypes of embeddings."""

    in_features: PositiveInt | Auto = Field("auto", description="Width of the embedding.")
    num_prototypes: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="Number of prototypes; a list for several sets, which are outputs of their own."
    )
    normalize: Bool = Field(True, description="Divide the embedding by its norm first.")
    weight_norm: Literal["none", "fixed", "learned"] = Field(
        "none", description="Weight normalisation of the prototypes, with lengths fixed at 1 (DINO) or learned."
    )

    def infer(self, feature: TensorInfo) -> Self:
        return self.with_width("in_features", token_width(feature), feature)

    def outputs(self) -> tuple[str, ...] | None:
        if isinstance(self.num_prototypes, int):
            return None
        return tuple(f"prototypes{i}" for i in range(len(self.num_prototypes)))


@register_head("prototypes", params=PrototypesParams)
class Prototypes(nn.Module):
    """Scores for each prototype: `(N, C)` to `(N, num_prototypes)`, or a list of them for several sets.

    Example:
        >>> head = Prototypes(PrototypesParams(in_features=8, num_prototypes=[5, 7]))
        >>> [tuple(scores.shape) for scores in head(torch.randn(2, 8))]
        [(2, 5), (2, 7)]
    """

    def __init__(self, params: PrototypesParams) -> None:
        super().__init__()
        width, counts = known(params.in_features), params.num_prototypes
        self.normalize, self.several = params.normalize, isinstance(counts, list)
        self.names = [f"prototypes{i}" for i in range(len(counts))] if isinstance(counts, list) else ["prototypes"]
        for name, count in zip(self.names, counts if isinstance(counts, list) else [counts], strict=True):
            if params.weight_norm == "none":
                layer: nn.Module = nn.Linear(width, count, bias=False)
            else:
                layer = WeightNormLinear(width, count, train_length=params.weight_norm == "learned")
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if self.normalize:
            x = F.normalize(x, dim=-1)
        scores: list[torch.Tensor] = [getattr(self, name)(x) for name in self.names]
        return scores if self.several else scores[0]
