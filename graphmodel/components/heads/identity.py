"""`identity`: the feature itself as an output."""

from __future__ import annotations

import torch
from torch import nn

from graphmodel.components.head import HeadParams
from graphmodel.components.registry import register_head


class IdentityParams(HeadParams):
    """No parameters."""

    any_layout = True


@register_head("identity", params=IdentityParams)
class Identity(nn.Module):
    """Returns its input."""

    def __init__(self, params: IdentityParams) -> None:
        super().__init__()
        del params

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
