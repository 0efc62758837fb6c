"""`fpn`: a feature pyramid of several feature maps.

Source: Lin et al. 2017 (arXiv:1612.03144); torchvision, `torchvision/ops/feature_pyramid_network.py`,
`FeaturePyramidNetwork`, with `LastLevelMaxPool` (Faster R-CNN) or `LastLevelP6P7` (RetinaNet, arXiv:1708.02002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, map_width, match_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import PositiveInt


class FpnParams(HeadParams):
    """A feature pyramid."""

    reads = "dict"
    in_channels: Annotated[list[PositiveInt], Field(min_length=1)] | Auto = Field(
        "auto", description="Channels of the features."
    )
    out_channels: PositiveInt = Field(256, description="Channels of every level.")
    extra: Literal["none", "pool", "p6p7"] = Field(
        "none",
        description="Further levels of stride 2: `pool` of the last one, or `p6` and `p7`, convolutions of the last "
        "feature.",
    )

    def infer(self, feature: TensorInfo) -> Self:
        return self.infer_all([feature])

    def infer_all(self, features: Sequence[TensorInfo]) -> Self:
        written = self.in_channels
        if isinstance(written, list) and len(written) != len(features):
            message = f"wants {len(written)} features and reads {len(features)}"
            raise HeadMismatch(message, ("in_channels",), "leave `in_channels` out")
        widths = [
            match_width("auto" if written == "auto" else written[i], map_width(f), ("in_channels", i), f)
            for i, f in enumerate(features)
        ]
        return self.model_copy(update={"in_channels": widths})


@register_head("fpn", params=FpnParams)
def fpn(params: FpnParams) -> nn.Module:
    """Feature maps of one width: a dict of maps `(N, C, H, W)` to a dict of maps `(N, out_channels, H, W)`.

    The features are those of the mapping in order, from the largest map to the smallest. Each gives an output with its
    name (`fpn.res3`), and further levels follow (`fpn.pool`, `fpn.p6`).

    Example:
        >>> import torch
        >>> head = fpn(FpnParams(in_channels=[8, 16], out_channels=4, extra="pool"))
        >>> levels = head({"res4": torch.zeros(1, 8, 6, 6), "res5": torch.zeros(1, 16, 3, 3)})
        >>> {name: tuple(level.shape) for name, level in levels.items()}
        {'res4': (1, 4, 6, 6), 'res5': (1, 4, 3, 3), 'pool': (1, 4, 2, 2)}
    """
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

    assert params.in_channels != "auto"
    extra = None
    if params.extra == "pool":
        extra = LastLevelMaxPool()
    elif params.extra == "p6p7":
        extra = LastLevelP6P7(params.in_channels[-1], params.out_channels)
    module: nn.Module = FeaturePyramidNetwork(params.in_channels, params.out_channels, extra)
    return module
