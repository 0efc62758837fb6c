"""Features of torchvision's video models, which take clips `(N, C, T, H, W)`.

Convolutional models return volumes `(N, C, T, H, W)`, Video Swin returns `(N, T, H, W, C)`, and MViT tokens that start
with a class token.
Strides are those of height and width, and decide no alias: the first stage of a video ResNet has stride 2.

Source: torchvision 0.29, `torchvision.models.video`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models import video
from torchvision.models.video.mvit import MViT
from torchvision.models.video.s3d import S3D
from torchvision.models.video.swin_transformer import SwinTransformer3d

from graphmodel.components.features import INPUT_OF, Feature
from graphmodel.components.library.naming import LibraryFeature, TableNaming
from graphmodel.components.tensors import Layout


@dataclass(frozen=True)
class VideoRow:
    """Where one architecture keeps its features.

    Attributes:
        model: the class.
        stages: module paths of the stem (if `stem` says so) and of the stages, with the strides of height and width.
        last: the module whose output is the last volume or token sequence.
        pooled: the tap of the pooled vector, a volume of which the mean is taken.
        layout: how stages are arranged.
        norm: the final norm.
        norm_fits_all: it fits every stage, not only the last.
        stem: the first of `stages` is the stem.
        clip: a shape of a clip that the model is made for.
    """

    model: type[nn.Module]
    stages: Callable[[Any], Sequence[tuple[str, int]]]
    last: str
    pooled: str
    layout: Layout = "nchw"
    norm: str = ""
    norm_fits_all: bool = False
    stem: bool = True
    clip: tuple[int, int, int, int] = (3, 16, 224, 224)


def _resnet(trunk: Any) -> Sequence[tuple[str, int]]:
    return [("stem", 2), *((f"layer{i + 1}", 2 ** (i + 1)) for i in range(4))]


def _s3d(trunk: Any) -> Sequence[tuple[str, int]]:
    return [("features.0", 2), ("features.3", 4), ("features.6", 8), ("features.12", 16), ("features.15", 32)]


def _swin(trunk: Any) -> Sequence[tuple[str, int]]:
    return [(f"features.{i}", 2 ** (i // 2 + 2)) for i in range(0, len(trunk.features), 2)]


def _mvit(trunk: Any) -> Sequence[tuple[str, int]]:
    """The blocks; the queries of some are pooled, which halves height and width."""
    stride, found = int(trunk.conv_proj.stride[-1]), []
    for i, block in enumerate(trunk.blocks):
        stride *= 2 if block.pool_skip is not None else 1
        found.append((f"blocks.{i}", stride))
    return found


ROWS = (
    VideoRow(video.VideoResNet, _resnet, "layer4", "avgpool", clip=(3, 16, 112, 112)),
    VideoRow(S3D, _s3d, "features", "avgpool"),
    VideoRow(SwinTransformer3d, _swin, "norm", "avgpool", "nhwc", "norm", stem=False),
    VideoRow(MViT, _mvit, "norm", f"head{INPUT_OF}", "nlc", "norm", stem=False),
)


def first_item(trunk: nn.Module, value: Any) -> Any:
    """The tokens that a block of MViT returns beside the size of their grid."""
    return value[0]


def mean_of_volume(trunk: nn.Module, value: Any) -> Any:
    """A vector per clip: `(N, C, T, H, W)` averaged."""
    if value.ndim == 5 and any(not isinstance(size, int) or size != 1 for size in value.shape[2:]):
        value = nn.functional.adaptive_avg_pool3d(value, 1)
    return torch.flatten(value, 1) if value.ndim > 2 else value


def _features(row: VideoRow, trunk: nn.Module) -> Iterator[Feature]:
    stages = row.stages(trunk)
    make = first_item if row.model is MViT else None
    number = 0
    for i, (path, stride) in enumerate(stages):
        name = f"stage{i + 1 - row.stem}"
        aliases: tuple[str, ...] = (path,)
        if row.stem and i == 0:
            name = "stem"
        if row.model is MViT:
            name = f"block{i}"
            if i == len(stages) - 1 or stages[i + 1][1] != stride:  # the last block of a size is the end of a stage
                number += 1
                aliases = (f"stage{number}", path)
        yield LibraryFeature(name, (path,), make, aliases, row.layout, index=i, module=path, reduction=stride)
    yield LibraryFeature("features", (row.last,), layout=row.layout, kind="features", module=row.last, normed=True)
    vector = partial(LibraryFeature, layout="nc", normed=True)
    yield vector("flatten", (row.pooled,), mean_of_volume, ("pre_logits",), kind="pre_logits")
    yield vector("logits", (), None, ("output",), kind="logits")


NAMING = TableNaming(ROWS, _features)
