"""`convnext`: ConvNeXt of any depths and widths.

Source: Liu et al. 2022 (arXiv:2201.03545); timm >= 1.0.26, `timm.models.convnext`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from timm.models.convnext import ConvNeXt
from torch import nn

from graphmodel.components.family import TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._images import channels_of
from graphmodel.components.trunks._vissl_keys import from_vissl, to_vissl
from graphmodel.spec.fields import PositiveInt

OUTSIDE_BLOCKS = [
    ("norm.", "head.norm."),
    ("downsample_layers.0.", "stem."),
    *((f"downsample_layers.{i}.", f"stages.{i}.downsample.") for i in range(1, 4)),
]
INSIDE_BLOCKS = [("dwconv.", "conv_dw."), ("pwconv1.", "mlp.fc1."), ("pwconv2.", "mlp.fc2.")]
FourSizes = Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]


class ConvNeXtParams(TrunkParams):
    """Parameters of a ConvNeXt; the defaults are ConvNeXt-Small's."""

    depth: FourSizes = Field([3, 3, 27, 3], description="Number of blocks of each stage.")
    dims: FourSizes = Field([96, 192, 384, 768], description="Width of each stage.")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="Stochastic depth of the last block.")


@register_trunk("convnext")
class ConvNeXtFamily(TrunkFamily[ConvNeXtParams]):
    """timm's ConvNeXt; every key of VISSL's CONVNEXT is used.

    VISSL returns the pooled, normalised vector for every requested feature; here it is `lastCLS`, and each stage has
    its own name.
    """

    Params = ConvNeXtParams
    summary = "ConvNeXt (timm), any depths and widths"
    source = "timm.models.convnext"

    def build(self, params: ConvNeXtParams, input_type: str) -> nn.Module:
        return ConvNeXt(
            in_chans=channels_of(input_type),
            depths=tuple(params.depth),
            dims=tuple(params.dims),
            drop_path_rate=params.drop_path_rate,
        )

    def features(self, params: ConvNeXtParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            Feature("conv1", ("stem",)),
            *(Feature(f"stage{i + 1}", (f"stages.{i}",), aliases=(f"res{i + 2}",)) for i in range(4)),
            Feature("avgpool", ("head.global_pool",)),
            Feature("lastCLS", ("head.flatten",), aliases=("flatten", "pre_logits"), layout="nc"),
        )

    def from_vissl_key(self, key: str, params: ConvNeXtParams) -> str | None:
        """The authors' own names, which VISSL keeps, as timm's."""
        block = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.*)", key)
        if block:
            return f"stages.{block[1]}.blocks.{block[2]}.{from_vissl(block[3], INSIDE_BLOCKS)}"
        return from_vissl(key, OUTSIDE_BLOCKS)

    def to_vissl_key(self, key: str, params: ConvNeXtParams) -> str | None:
        block = re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)", key)
        if block:
            return f"stages.{block[1]}.{block[2]}.{to_vissl(block[3], INSIDE_BLOCKS)}"
        return None if key.startswith("head.fc.") else to_vissl(key, OUTSIDE_BLOCKS)
