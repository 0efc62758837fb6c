"""The named features of any module: its own table, its library's names, or its result alone."""

from __future__ import annotations

from torch import nn

from graphmodel.components.features import Feature
from graphmodel.components.library import timm_features, torchvision_features, torchvision_video
from graphmodel.components.library.naming import Naming

NAMINGS: tuple[Naming, ...] = (timm_features.NAMING, torchvision_features.NAMING, torchvision_video.NAMING)


def naming_of(module: nn.Module) -> Naming | None:
    """The naming for a module from timm or torchvision (or one that keeps to timm's interface), else None."""
    return next((naming for naming in NAMINGS if naming.covers(module)), None)


def features_of(module: nn.Module) -> list[Feature]:
    """The named features of any module.

    Those of its own table `features` (names and module paths) if it has one, those of its library, and `output`.
    """
    naming = naming_of(module)
    named = getattr(module, "features", None)
    table = [Feature(name, (path,), layout="other") for name, path in named.items()] if isinstance(named, dict) else []
    library = naming.features(module) if naming is not None else [Feature("output", layout="other")]
    return [*table, *(f for f in library if f.name not in [t.name for t in table])]


def default_of(module: nn.Module) -> str:
    """The feature of any module that a head reads if the spec names none."""
    naming = naming_of(module)
    return naming.default(module) if naming is not None else "output"
