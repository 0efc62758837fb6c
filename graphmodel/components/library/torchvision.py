"""`torchvision:NAME`: any model of torchvision, with any keyword argument that its constructor accepts.

Source: torchvision 0.29, `torchvision.models.get_model`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from graphmodel.components.construct import load_file
from graphmodel.components.family import InvalidTrunkParams
from graphmodel.components.library.torchvision_video import NAMING as VIDEO
from graphmodel.components.library.trunk import LibraryParams, LibraryTrunk
from graphmodel.components.registry import register_trunk


@register_trunk("torchvision")
class TorchvisionTrunk(LibraryTrunk):
    """A model of torchvision."""

    summary = "any model of torchvision"
    source = "torchvision.models"

    def bind(self, variant: str) -> TorchvisionTrunk | None:
        """The family of one model, or None if torchvision has no such model."""
        from torchvision import models

        return TorchvisionTrunk(f"torchvision:{variant}", variant) if variant in models.list_models() else None

    def variants(self) -> list[str] | None:
        """All classification models."""
        from torchvision import models

        return list(models.list_models(module=models))

    def make(self, keywords: dict[str, Any], input_type: str, weights: Any = None, download: bool = False) -> nn.Module:
        from torchvision import models

        if not self.variant:
            raise InvalidTrunkParams(
                "`torchvision` alone does not name a model", ("name",), "write for example `torchvision:resnet50`"
            )
        if "weights" in keywords:
            help = f"write `pretrained: {keywords['weights']}`: `pretrained` takes names of weights, true and files"
            raise InvalidTrunkParams(f"`{self.name}` cannot take `weights`", ("weights",), help)
        for name in ("weights_backbone", "pretrained_backbone"):
            if keywords.get(name):
                help = "leave it out: `pretrained: true` loads the weights of the whole model"
                raise InvalidTrunkParams(f"`{self.name}` cannot take `{name}`, which downloads weights", (name,), help)
        builder = models.get_model_builder(self.variant)
        if "weights_backbone" in inspect.signature(builder).parameters:
            keywords = {**keywords, "weights_backbone": None}
            keywords.pop("pretrained_backbone", None)
        with self.guarded(download, self.weights_source(weights) if download else ""):
            module: nn.Module = builder(weights=weights, **keywords)
        return _for_luminance(module) if input_type == "lab" else module

    def pretrained(
        self, params: LibraryParams, input_type: str, weights: bool | str, skeleton: bool = False
    ) -> nn.Module:
        if not weights or (isinstance(weights, str) and not self.is_published(weights)):
            module = self.build(params, input_type)
            return load_file(module, weights) if isinstance(weights, str) and not skeleton else module
        wanted = "DEFAULT" if weights is True else weights
        with _structure_alone() if skeleton else _nothing():
            return self.constructed(lambda: self.make(params.keywords(), input_type, wanted, not skeleton), params)

    def weights_source(self, weights: Any) -> str:
        """Where weights of that name are; empty if there are none."""
        from torchvision import models

        return str(models.get_model_weights(self.variant)[weights].url) if weights else ""

    def is_published(self, weights: str) -> bool:
        """Whether torchvision publishes weights of that name for the model."""
        from torchvision import models

        try:
            published = models.get_model_weights(self.variant)
        except ValueError:
            return False
        return not Path(weights).exists() and weights in [*published.__members__, "DEFAULT"]

    def built_for(self, params: LibraryParams, trunk: Any) -> Sequence[int] | None:
        video = VIDEO.row_of(trunk)
        if video is not None:
            return video.clip
        size = getattr(trunk, "image_size", None)
        if isinstance(size, int):
            return (3, size, size)
        stem = next((m for m in trunk.modules() if isinstance(m, nn.Conv2d)), None)
        return None if stem is None else (stem.in_channels, 224, 224)


def _for_luminance(module: nn.Module) -> nn.Module:
    """The model with a first convolution of one channel, initialised as its constructor does."""
    for path, conv in module.named_modules():
        if isinstance(conv, nn.Conv2d):
            made = nn.Conv2d(
                1, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
                bias=conv.bias is not None,
            )  # fmt: skip
            nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
            if made.bias is not None:
                nn.init.zeros_(made.bias)
            holder, _, name = path.rpartition(".")
            module.get_submodule(holder)._modules[name] = made
            return module
    return module


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _structure_alone() -> Iterator[None]:
    """Inside, torchvision builds what published weights ask for (classes, input transform) and loads none."""
    from torchvision.models import WeightsEnum

    nothing = mock.patch.object(WeightsEnum, "get_state_dict", return_value={})
    with nothing, mock.patch.object(nn.Module, "load_state_dict", return_value=None):
        yield
