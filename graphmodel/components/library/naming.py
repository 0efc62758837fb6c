"""One naming for the features of library models, and how such models are run for them.

Pyramids have `stem` and `stage1` … `stageN` in the order of their strides, with the aliases `res2` … `res5` at strides
4 to 32; isotropic transformers have `block0` … `blockN`. `features` is the last map or token sequence, `pre_logits`
(also `flatten`) the pooled vector, `logits` (also `output`) the classifier's result. Module paths are features too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from graphmodel.components.features import Feature

Kind = Literal["stage", "features", "pre_logits", "logits"]
STRIDES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


@dataclass(frozen=True)
class LibraryFeature(Feature):
    """A feature of a library model, with what the library publishes about it.

    Attributes:
        kind: a stage or block, the last features, the pooled vector, or the classifier's result.
        index: its position among the library's intermediate features.
        module: the module path that the library publishes for it.
        channels: its channels, as published.
        reduction: its stride in input pixels, as published.
        normed: it has gone through the model's final norm.
    """

    kind: Kind = "stage"
    index: int = -1
    module: str = ""
    channels: int | None = None
    reduction: float | None = None
    normed: bool = False


@dataclass(frozen=True)
class Published:
    """What a library says of one intermediate feature."""

    module: str
    channels: int | None
    reduction: float | None


class Naming(Protocol):
    """How the features of one kind of model are named and made."""

    def covers(self, module: nn.Module) -> bool:
        """Whether a module is of that kind."""

    def features(self, trunk: nn.Module) -> list[Feature]:
        """All named features in the order of the model."""

    def default(self, trunk: nn.Module) -> str:
        """What a head reads where the spec names nothing."""

    def normed(self, feature: Feature, trunk: nn.Module, norm: bool) -> Feature | None:
        """The feature with or without the model's final norm, or None where it cannot be had so."""


def naming_of(module: nn.Module) -> Naming | None:
    """The naming for a module from timm or torchvision (or one that keeps to timm's interface), else None."""
    from graphmodel.components.library import timm_features, torchvision_features

    namings: tuple[Naming, ...] = (timm_features.NAMING, torchvision_features.NAMING)
    for naming in namings:
        if naming.covers(module):
            return naming
    return None


def features_of(module: nn.Module) -> list[Feature]:
    """The named features of any module.

    Those of its own `features` table where it has one (names and module paths), those of its library, and `output`.
    """
    naming = naming_of(module)
    named = getattr(module, "features", None)
    table = [Feature(name, (path,), layout="other") for name, path in named.items()] if isinstance(named, dict) else []
    library = naming.features(module) if naming is not None else [Feature("output", layout="other")]
    return [*table, *(f for f in library if f.name not in [t.name for t in table])]


def default_of(module: nn.Module) -> str:
    """What a head reads of any module where the spec names nothing."""
    naming = naming_of(module)
    return naming.default(module) if naming is not None else "output"


def stage_names(published: Sequence[Published]) -> list[tuple[str, tuple[str, ...]]]:
    """For each intermediate feature its name and aliases.

    A first feature at stride 2 or less is the `stem`, unless it is an item of the same list of stages as the second.
    """
    if _isotropic(published):
        return [(f"block{i}", _path_alias(p, published)) for i, p in enumerate(published)]
    stem = int(_has_stem(published))
    names = [(f"stage{i + 1 - stem}" if i >= stem else "stem") for i in range(len(published))]
    last_of = {p.reduction: i for i, p in enumerate(published) if i >= stem}
    by_stride = {i: STRIDES[int(r)] for r, i in last_of.items() if r in STRIDES}
    return [
        (name, ((by_stride[i],) if i in by_stride else ()) + _path_alias(entry, published))
        for i, (name, entry) in enumerate(zip(names, published, strict=True))
    ]


def _path_alias(entry: Published, published: Sequence[Published]) -> tuple[str, ...]:
    unique = entry.module and sum(p.module == entry.module for p in published) == 1
    return (entry.module,) if unique else ()


def _isotropic(published: Sequence[Published]) -> bool:
    if not published or published[0].reduction != published[min(1, len(published) - 1)].reduction:
        return False
    container, _, last = published[0].module.rpartition(".")
    return last.isdigit() and container.endswith("blocks")


def _has_stem(published: Sequence[Published]) -> bool:
    if len(published) < 2:
        return False
    first, second = published[:2]
    early = first.reduction is not None and (first.reduction <= 2 or first.reduction == second.reduction)
    (container, _, last), (other, _, _) = first.module.rpartition("."), second.module.rpartition(".")
    return early and not (last.isdigit() and container == other)
