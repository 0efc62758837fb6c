"""Features of torchvision's classification models: one row for each architecture with their paths.

Source: torchvision 0.29, `torchvision.models`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torchvision import models

from graphmodel.components.features import INPUT_OF, Compute, Feature
from graphmodel.components.library.naming import STRIDES, LibraryFeature, TableNaming
from graphmodel.components.tensors import Layout

Stages = Callable[[Any], Sequence[tuple[str, int]]]
"""Module paths of a model's stages with their strides."""


@dataclass(frozen=True)
class Row:
    """Where one architecture keeps its features.

    Attributes:
        model: the class.
        stages: module paths and strides; the first is the stem if its stride is 2 or less and `stem` says so.
        last: the module whose output is the last map or token sequence.
        pooled: the tap of the pooled vector, flattened if it is a map of one pixel.
        pre_logits: the tap of what the last layer reads, if that is not the pooled vector.
        layout: how stages are arranged.
        norm: the final norm.
        norm_fits_all: the final norm fits every stage, not only the last.
        stem: the first stage is the stem.
    """

    model: type[nn.Module]
    stages: Stages
    last: str
    pooled: str
    pre_logits: str = ""
    layout: Layout = "nchw"
    norm: str = ""
    norm_fits_all: bool = False
    stem: bool = True


def fixed(*stages: tuple[str, int]) -> Stages:
    """Stages at paths that every model of the class has."""
    return lambda trunk: stages


def ends_of(container: str, behind: int = 0) -> Stages:
    """The last item of a sequence at each stride, found by running it; `behind` items at its end belong to the head."""
    return lambda trunk: _ends(trunk, container, behind)


_found: WeakKeyDictionary[nn.Module, Sequence[tuple[str, int]]] = WeakKeyDictionary()


def _ends(trunk: Any, container: str, behind: int) -> Sequence[tuple[str, int]]:
    if trunk not in _found:
        items = list(trunk.get_submodule(container))
        first = next(trunk.parameters())
        x = torch.empty(1, 3, 256, 256, device=first.device, dtype=first.dtype)
        training = trunk.training
        trunk.eval()
        ends: dict[int, str] = {}
        with torch.no_grad():
            for i, item in enumerate(items[: len(items) - behind]):
                x = item(x)
                # To the nearest power of two: some models do not pad.
                ends[2 ** round(math.log2(256 / x.shape[-1]))] = f"{container}.{i}"
        trunk.train(training)
        _found[trunk] = [(path, stride) for stride, path in ends.items() if stride > 1]
    return _found[trunk]


def blocks(trunk: Any) -> Sequence[tuple[str, int]]:
    """The blocks of a vision transformer."""
    return [(f"encoder.layers.{name}", int(trunk.patch_size)) for name, _ in trunk.encoder.layers.named_children()]


def last_linear(trunk: Any) -> str:
    """What the last layer of a ViT's head reads."""
    names = [name for name, _ in trunk.heads.named_children()]
    return f"heads.{names[-1]}{INPUT_OF}"


LAYERS = fixed(("relu", 2), ("layer1", 4), ("layer2", 8), ("layer3", 16), ("layer4", 32))
DENSE = fixed(
    ("features.relu0", 2), *((f"features.denseblock{i}", 2 ** (i + 1)) for i in (1, 2, 3)), ("features.norm5", 32)
)
INCEPTION = fixed(("Conv2d_2b_3x3", 2), ("Conv2d_4a_3x3", 4), ("Mixed_5d", 8), ("Mixed_6e", 16), ("Mixed_7c", 32))
GOOGLE = fixed(("conv1", 2), ("conv3", 4), ("inception3b", 8), ("inception4e", 16), ("inception5b", 32))
SHUFFLE = fixed(("conv1", 2), ("maxpool", 4), ("stage2", 8), ("stage3", 16), ("stage4", 32))
PATCHES = fixed(*((f"features.{i}", 2 ** (i // 2 + 2)) for i in (1, 3, 5, 7)))
REGNET = fixed(("stem", 2), *((f"trunk_output.block{i}", 2 ** (i + 1)) for i in (1, 2, 3, 4)))
MAXVIT = fixed(("stem", 2), *((f"blocks.{i}", 2 ** (i + 2)) for i in range(4)))

ROWS = (
    Row(models.AlexNet, ends_of("features"), "features", f"classifier{INPUT_OF}", "classifier.5", stem=False),
    Row(models.ConvNeXt, PATCHES, "features", "classifier.1", stem=False),
    Row(models.DenseNet, DENSE, "features", f"classifier{INPUT_OF}"),
    Row(models.EfficientNet, ends_of("features", 1), "features", "avgpool"),
    Row(models.GoogLeNet, GOOGLE, "inception5b", "avgpool"),
    Row(models.Inception3, INCEPTION, "Mixed_7c", "avgpool"),
    Row(models.MaxVit, MAXVIT, "blocks.3", "classifier.1", "classifier.4"),
    Row(models.MNASNet, ends_of("layers", 3), "layers", f"classifier{INPUT_OF}"),
    Row(models.MobileNetV2, ends_of("features", 1), "features", f"classifier{INPUT_OF}"),
    Row(models.MobileNetV3, ends_of("features", 1), "features", f"classifier{INPUT_OF}", "classifier.1"),
    Row(models.RegNet, REGNET, "trunk_output", "avgpool"),
    Row(models.ResNet, LAYERS, "layer4", "avgpool"),
    Row(models.ShuffleNetV2, SHUFFLE, "conv5", f"fc{INPUT_OF}"),
    Row(models.SqueezeNet, ends_of("features"), "features", "features"),
    Row(models.SwinTransformer, PATCHES, "norm", "flatten", layout="nhwc", norm="norm", stem=False),
    Row(models.VGG, ends_of("features"), "features", f"classifier{INPUT_OF}", "classifier.4", stem=False),
    Row(
        models.VisionTransformer,
        blocks,
        "encoder",
        f"heads{INPUT_OF}",
        layout="nlc",
        norm="encoder.ln",
        norm_fits_all=True,
        stem=False,
    ),
)


def pooled(trunk: nn.Module, value: Any) -> Any:
    """A vector per sample: `(N, C, 1, 1)` flattened, a larger map averaged."""
    # While tracing, a size that depends on the image is not an int, and is not always 1.
    if value.ndim == 4 and any(not isinstance(size, int) or size != 1 for size in value.shape[2:]):
        value = nn.functional.adaptive_avg_pool2d(value, 1)
    return torch.flatten(value, 1) if value.ndim > 2 else value


def first_of(trunk: nn.Module, value: Any) -> Any:
    """The main result of a model that returns those of its auxiliary classifiers in training too."""
    return value[0] if isinstance(value, tuple) else value


def _features(row: Row, trunk: nn.Module) -> Iterator[Feature]:
    stages = row.stages(trunk)
    isotropic = row.model is models.VisionTransformer
    for i, (path, stride) in enumerate(stages):
        number = i if row.stem else i + 1
        name = f"block{i}" if isotropic else f"stage{number}" if number else "stem"
        alias = (STRIDES[stride],) if stride in STRIDES and number and not isotropic else ()
        yield LibraryFeature(name, (path,), aliases=alias, layout=row.layout, index=i, module=path, reduction=stride)
    yield LibraryFeature("features", (row.last,), layout=row.layout, kind="features", module=row.last, normed=True)
    yield from _heads(row, trunk)


def _heads(row: Row, trunk: nn.Module) -> Iterator[Feature]:
    def vector(name: str, tap: str, aliases: tuple[str, ...] = ()) -> LibraryFeature:
        make: Compute = pooled
        return LibraryFeature(name, (tap,), make, aliases, "nc", kind="pre_logits", normed=True)

    if row.model is models.VisionTransformer:
        first, last = f"heads{INPUT_OF}", last_linear(trunk)
        deep = len(trunk.heads) > 1  # type: ignore[arg-type]
        yield vector("flatten", first, () if deep else ("pre_logits",))
        if deep:
            yield vector("pre_logits", last)
    elif row.pre_logits:
        yield vector("flatten", row.pooled)
        yield vector("pre_logits", row.pre_logits)
    else:
        yield vector("flatten", row.pooled, ("pre_logits",))
    yield LibraryFeature("logits", (), first_of, ("output",), "nc", kind="logits", normed=True)


NAMING = TableNaming(ROWS, _features)
