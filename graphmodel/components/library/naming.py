"""One naming for the features of library models: names, aliases, and what a library publishes about each.

Pyramids have `stem` and `stage1` … `stageN` in the order of their strides, with the aliases `res2` … `res5` at strides
4 to 32; isotropic transformers have `block0` … `blockN`. `features` is the last map or token sequence, `pre_logits`
(also `flatten`) the pooled vector, `logits` (also `output`) the classifier's result. Module paths are features too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

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


class Naming(Protocol):
    """How the features of one kind of model are named and made."""

    def covers(self, module: nn.Module) -> bool:
        """Whether a module is of that kind."""

    def features(self, trunk: nn.Module) -> list[Feature]:
        """All named features in the order of the model."""

    def default(self, trunk: nn.Module) -> str:
        """The feature that a head reads if the spec names none."""

    def normed(self, feature: Feature, trunk: nn.Module, norm: bool) -> Feature | None:
        """The feature with or without the model's final norm, or None if there is no such feature."""


class Row(Protocol):
    """Where the models of one class keep their features."""

    @property
    def model(self) -> type[nn.Module]:
        """The class."""

    @property
    def stages(self) -> Callable[[Any], Sequence[tuple[str, int]]]:
        """Module paths of a model's stages, with their strides."""

    @property
    def norm(self) -> str:
        """The path of the final norm; empty if there is none."""

    @property
    def norm_fits_all(self) -> bool:
        """Whether the final norm fits every stage, not only the last."""


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True)
class TableNaming(Generic[RowT]):
    """Names and makes the features of models that a table has a row for.

    Attributes:
        rows: the table.
        features_of: the features of a model by its row.
    """

    rows: Sequence[RowT]
    features_of: Callable[[RowT, nn.Module], Iterable[Feature]]

    def row_of(self, module: nn.Module) -> RowT | None:
        """The row of a module's class; None if the table has none."""
        return next((row for row in self.rows if isinstance(module, row.model)), None)

    def covers(self, module: nn.Module) -> bool:
        return self.row_of(module) is not None

    def features(self, trunk: nn.Module) -> list[Feature]:
        row = self.row_of(trunk)
        assert row is not None, "only covered modules are asked"
        return list(self.features_of(row, trunk))

    def default(self, trunk: nn.Module) -> str:
        return "flatten"

    def normed(self, feature: Feature, trunk: nn.Module, norm: bool) -> Feature | None:
        row = self.row_of(trunk)
        if row is None or not isinstance(feature, LibraryFeature):
            return None
        if feature.kind != "stage":
            return feature if norm else None
        if not norm:
            return feature
        last = feature.index == len(row.stages(trunk)) - 1
        if not row.norm or not (row.norm_fits_all or last):
            return None
        compute = partial(_norm, row.norm, feature.compute)
        return replace(feature, name=f"{feature.name}_norm", compute=compute, normed=True)


def _norm(path: str, compute: Any, trunk: nn.Module, value: Any) -> Any:
    return trunk.get_submodule(path)(value if compute is None else compute(trunk, value))


def named_stages(published: Sequence[LibraryFeature]) -> list[LibraryFeature]:
    """Intermediate features as a library publishes them, with names and aliases.

    A first feature at stride 2 or less is the `stem`, unless it is an item of the same list of stages as the second.
    """
    if _isotropic(published):
        return [replace(p, name=f"block{i}", aliases=_path_alias(p, published)) for i, p in enumerate(published)]
    stem = int(_has_stem(published))
    last_of = {p.reduction: i for i, p in enumerate(published) if i >= stem}
    by_stride = {i: STRIDES[int(r)] for r, i in last_of.items() if r in STRIDES}
    return [
        replace(
            p,
            name=f"stage{i + 1 - stem}" if i >= stem else "stem",
            aliases=((by_stride[i],) if i in by_stride else ()) + _path_alias(p, published),
        )
        for i, p in enumerate(published)
    ]


def _path_alias(entry: LibraryFeature, published: Sequence[LibraryFeature]) -> tuple[str, ...]:
    unique = entry.module and sum(p.module == entry.module for p in published) == 1
    return (entry.module,) if unique else ()


def _isotropic(published: Sequence[LibraryFeature]) -> bool:
    if not published or published[0].reduction != published[min(1, len(published) - 1)].reduction:
        return False
    container, _, last = published[0].module.rpartition(".")
    return last.isdigit() and container.endswith("blocks")


def _has_stem(published: Sequence[LibraryFeature]) -> bool:
    if len(published) < 2:
        return False
    first, second = published[:2]
    early = first.reduction is not None and (first.reduction <= 2 or first.reduction == second.reduction)
    (container, _, last), (other, _, _) = first.module.rpartition("."), second.module.rpartition(".")
    return early and not (last.isdigit() and container == other)
