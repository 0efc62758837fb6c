"""The named features of any module: its own table, its library's names, or its result alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from graphmodel.components.features import Feature, FeatureError
from graphmodel.components.library import timm_features, torchvision_features, torchvision_video
from graphmodel.components.library.naming import Naming

NAMINGS: tuple[Naming, ...] = (timm_features.NAMING, torchvision_features.NAMING, torchvision_video.NAMING)


def naming_of(module: nn.Module) -> Naming | None:
    """The naming for a module from timm or torchvision (or one that keeps to timm's interface), else None."""
    return next((naming for naming in NAMINGS if naming.covers(module)), None)


def features_of(module: nn.Module) -> list[Feature]:
    """The named features of any module.

    Those of its own table `features` (names and module paths) if it has one, those of its library, and `output`. A
    module of no library has `flatten` as well, its result averaged over all positions, unless a part has that name.
    """
    naming = naming_of(module)
    named = getattr(module, "features", None)
    table = [Feature(name, (path,), layout="other") for name, path in named.items()] if isinstance(named, dict) else []
    library = naming.features(module) if naming is not None else list(_plain(module))
    return [*table, *(f for f in library if f.name not in [t.name for t in table])]


def _plain(module: nn.Module) -> Iterator[Feature]:
    if not any(name == "flatten" for name, _ in module.named_modules()):
        yield Feature("flatten", (), _mean_of_positions, layout="nc")
    yield Feature("output", layout="other")


def _mean_of_positions(trunk: nn.Module, value: Any) -> Any:
    """A vector per sample: `(N, C, H, W)` or `(N, C, T, H, W)` averaged, `(N, C)` as it is.

    A module of no library may put its channels anywhere: they must be as many as its last convolution makes.
    """
    dims = getattr(value, "ndim", None)
    if dims == 2:
        return value
    made = [m.out_channels for m in trunk.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))][-1:]
    if dims in (4, 5) and _is(value.shape[1], made) and not _is(value.shape[-1], made):
        pool = nn.functional.adaptive_avg_pool2d if dims == 4 else nn.functional.adaptive_avg_pool3d
        return torch.flatten(pool(value, 1), 1)
    raise FeatureError(
        "`flatten` is the average of a map with its channels first, which the trunk's result does not prove to be",
        "read `output` or a part of the trunk; `layout`, `pool` and `flatten: true` in the mapping make a vector of it",
        "flatten",
    )


def _is(size: Any, sizes: list[int]) -> bool:
    return isinstance(size, int) and size in sizes


def default_of(module: nn.Module) -> str:
    """The feature of any module that a head reads if the spec names none."""
    naming = naming_of(module)
    return naming.default(module) if naming is not None else "output"
