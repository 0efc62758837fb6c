"""`mobilenetv3_tv` and `mobilenetv3_timm`: torchvision's and timm's MobileNetV3, as VISSL wraps them.

Source: Howard et al. 2019 (arXiv:1905.02244); torchvision >= 0.21, `torchvision.models.mobilenetv3`; timm >= 1.0.26,
`timm.models.mobilenetv3`; VISSL's `mobile_net.py` for the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import timm
import torchvision
from pydantic import Field
from torch import nn

from graphmodel.components.family import BGR, RGB, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.registry import register_trunk
from graphmodel.components.trunks._pooled import flatten, flatten_and_normalize, normalize
from graphmodel.spec.fields import Bool


class MobileNetV3TorchvisionParams(TrunkParams):
    """Parameters of torchvision's MobileNetV3."""

    variant: Literal["mobilenetv3_large_100", "mobilenetv3_small_100"] = Field(
        "mobilenetv3_large_100", description="The model, as timm names it."
    )
    timm_bn: Bool = Field(False, description="BatchNorm with timm's epsilon and momentum, which are PyTorch's.")


@register_trunk("mobilenetv3_tv")
class MobileNetV3TorchvisionFamily(TrunkFamily[MobileNetV3TorchvisionParams]):
    """torchvision's MobileNetV3 without its classifier.

    Not used: `TRUNK_ONLY`, which only timm's has a use for. `PRETRAINED` is the trunk's own `pretrained`.
    """

    Params = MobileNetV3TorchvisionParams
    summary = "MobileNetV3 (torchvision), large and small"
    source = "torchvision.models.mobilenetv3"

    def input_types(self) -> tuple[str, ...]:
        return RGB, BGR

    def build(self, params: MobileNetV3TorchvisionParams, input_type: str) -> nn.Module:
        size = params.variant.split("_")[1]
        norm = partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1) if params.timm_bn else None
        model: nn.Module = torchvision.models.get_model(f"mobilenet_v3_{size}", weights=None, norm_layer=norm)
        return model

    def features(self, params: MobileNetV3TorchvisionParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            *_pyramid(trunk.get_submodule("features"), "features"),
            Feature("trunk", ("features",)),
            Feature("trunk_pool", ("avgpool",), flatten, ("pre_logits",), "nc"),
            Feature("trunk_pool_norm", ("avgpool",), flatten_and_normalize, (), "nc"),
        )

    def default(self, params: MobileNetV3TorchvisionParams, trunk: nn.Module) -> str:
        return "trunk_pool"

    def from_vissl_key(self, key: str, params: MobileNetV3TorchvisionParams) -> str | None:
        """VISSL keeps the library's keys under `model.`."""
        return key.removeprefix("model.")

    def to_vissl_key(self, key: str, params: MobileNetV3TorchvisionParams) -> str | None:
        return None if key.startswith("classifier.") else f"model.{key}"


class MobileNetV3TimmParams(TrunkParams):
    """Parameters of timm's MobileNetV3."""

    variant: Literal[
        "mobilenetv3_large_075",
        "mobilenetv3_large_100",
        "mobilenetv3_small_050",
        "mobilenetv3_small_075",
        "mobilenetv3_small_100",
    ] = Field("mobilenetv3_large_100", description="The model.")
    trunk_only: Bool = Field(True, description="Without the 1×1 convolution after the pooling.")


@register_trunk("mobilenetv3_timm")
class MobileNetV3TimmFamily(TrunkFamily[MobileNetV3TimmParams]):
    """timm's MobileNetV3 without its classifier.

    `flatten` is what timm's classifier would read: pooled, through the 1×1 convolution if there is one, through its
    activation. The default is the pooled vector with `trunk_only`, else `flatten`. Not used: `TIMM_BN`, since timm's
    model has timm's BatchNorm anyway. `PRETRAINED` is the trunk's own `pretrained`.
    """

    Params = MobileNetV3TimmParams
    summary = "MobileNetV3 (timm), all widths"
    source = "timm.models.mobilenetv3"

    def input_types(self) -> tuple[str, ...]:
        return RGB, BGR

    def build(self, params: MobileNetV3TimmParams, input_type: str) -> nn.Module:
        model: nn.Module = timm.create_model(params.variant)
        if params.trunk_only:
            model.conv_head = nn.Identity()
        model.classifier = nn.Identity()
        # Without the convolution the activation would overwrite the pooled vector, which is a feature as well.
        model.act2 = nn.Hardswish()
        return model

    def features(self, params: MobileNetV3TimmParams, trunk: nn.Module) -> Sequence[Feature]:
        return (
            *(Feature(f"stage{n}", (f"blocks.{i}",)) for n, i in enumerate(_ends(trunk.get_submodule("blocks")), 1)),
            Feature("trunk", ("blocks",)),
            Feature("trunk_pool", ("global_pool",), flatten, () if not params.trunk_only else ("pre_logits",), "nc"),
            Feature("trunk_pool_norm", ("global_pool",), flatten_and_normalize, (), "nc"),
            Feature("flatten", ("flatten",), None, () if params.trunk_only else ("pre_logits",), "nc"),
            Feature("flatten_norm", ("flatten",), normalize, (), "nc"),
        )

    def default(self, params: MobileNetV3TimmParams, trunk: nn.Module) -> str:
        return "trunk_pool" if params.trunk_only else "flatten"

    def from_vissl_key(self, key: str, params: MobileNetV3TimmParams) -> str | None:
        """VISSL keeps the library's keys under `model.`."""
        return key.removeprefix("model.")

    def to_vissl_key(self, key: str, params: MobileNetV3TimmParams) -> str | None:
        return None if key.startswith("classifier.") else f"model.{key}"


def _pyramid(layers: nn.Module, path: str) -> list[Feature]:
    """The last layer before each halving of the resolution from stride 4 on, as `stage1` and so on."""
    return [Feature(f"stage{n}", (f"{path}.{i}",)) for n, i in enumerate(_ends(layers), 1)]


def _ends(layers: nn.Module) -> list[int]:
    """The last children at strides 4, 8, 16 and 32 of a stem of stride 2 and what follows."""
    strides = [
        max((m.stride[0] for m in layer.modules() if isinstance(m, nn.Conv2d)), default=1)
        for layer in layers.children()
    ]
    starts = [i for i, stride in enumerate(strides) if stride > 1]
    return [end - 1 for end in [*starts[1:], len(strides)]][-4:]
