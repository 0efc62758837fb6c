"""`convnext`: ConvNeXt of any depths and widths.

Source: Liu et al. 2022 (arXiv:2201.03545); timm >= 1.0.9, `timm.models.convnext`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from timm.models.convnext import ConvNeXt
from torch import nn

from graphmodel.components.base import Feature, TrunkFamily
from graphmodel.components.registry import register_trunk
from graphmodel.spec.validate import PositiveInt

FourSizes = Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]


class ConvNeXtParams(BaseModel):
    """Parameters of a ConvNeXt; the defaults are ConvNeXt-Small's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: FourSizes = Field([3, 3, 27, 3], description="Number of blocks of each stage.")
    dims: FourSizes = Field([96, 192, 384, 768], description="Width of each stage.")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="Stochastic depth of the last block.")


@register_trunk("convnext")
class ConvNeXtFamily(TrunkFamily[ConvNeXtParams]):
    """timm's ConvNeXt; every key of VISSL's CONVNEXT is used.

    VISSL gives the pooled, normalised vector whatever feature is asked for; here it is `lastCLS` and the stages have
    names of their own.
    """

    Params = ConvNeXtParams
    summary = "ConvNeXt (timm), any depths and widths"
    source = "timm.models.convnext"

    def build(self, params: ConvNeXtParams, input_type: str) -> nn.Module:
        return ConvNeXt(
            in_chans=1 if input_type == "lab" else 3,
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

    def vissl_key(self, key: str, params: ConvNeXtParams) -> str | None:
        """The authors' own names, which VISSL keeps, as timm's."""
        for theirs, ours in (
            (r"^norm\.", "head.norm."),
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
            (r"^stages\.(\d+)\.(\d+)\.pwconv(\d)\.", r"stages.\1.blocks.\2.mlp.fc\3."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        ):
            key, changed = re.subn(theirs, ours, key)
            if changed:
                break
        return key
