"""`segmentation`: the head of a fully convolutional network, whose scores have the size of the input.

Source: Long et al. 2015 (arXiv:1411.4038); torchvision, `torchvision/models/segmentation/fcn.py`, `FCNHead`, and
`_utils.py`, `_SimpleSegmentationModel.forward` (bilinear, `align_corners=False`).
"""

from __future__ import annotations

from pydantic import Field
from torch import nn
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadParams, known, map_width
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt


class SegmentationParams(HeadParams):
    """A head for semantic segmentation."""

    in_channels: PositiveInt | Auto = Field("auto", description="Channels of the feature.")
    num_classes: PositiveInt = Field(description="Number of classes.")
    channels: PositiveInt | Auto = Field(
        "auto", description="Channels in between; by default a quarter of the feature's."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the last convolution.")
    upsample: Bool = Field(True, description="Resize the scores to the height and width of the input.")

    def infer(self, feature: TensorInfo) -> Self:
        width = map_width(feature)
        channels = max(width // 4, 1) if self.channels == "auto" else self.channels
        return self.with_width("in_channels", width, feature).model_copy(update={"channels": channels})

    def resizes_to_input(self) -> bool:
        return self.upsample


@register_head("segmentation", params=SegmentationParams)
def segmentation(params: SegmentationParams) -> nn.Module:
    """Scores of each class and pixel: `(N, C, h, w)` to `(N, num_classes, h, w)`, which are resized to `(H, W)`.

    The keys of the state dict are those of torchvision's `FCNHead`. The module itself does not resize: the model does,
    since it knows the input.

    Example:
        >>> head = segmentation(SegmentationParams(in_channels=8, channels=2, num_classes=3))
        >>> [type(layer).__name__ for layer in head]
        ['Conv2d', 'BatchNorm2d', 'ReLU', 'Dropout', 'Conv2d']
    """
    width, channels = known(params.in_channels), known(params.channels)
    return nn.Sequential(
        nn.Conv2d(width, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout(params.dropout),
        nn.Conv2d(channels, params.num_classes, 1),
    )
