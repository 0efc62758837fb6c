"""Features of timm's models, and of any module with timm's interface (`feature_info`, `forward_intermediates`).

Source: timm 1.0.31, `timm.models._features` and each model's `forward_intermediates`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from graphmodel.components.base import Feature, Running, of_taps
from graphmodel.components.library_features import LibraryFeature, Published, stage_names


def published(trunk: Any) -> list[Published]:
    """What timm publishes of the intermediate features."""
    info = getattr(trunk, "feature_info", None) or []
    info = getattr(info, "info", info)
    return [Published(str(d.get("module", "")), d.get("num_chs"), d.get("reduction")) for d in info]


def run(trunk: Any, features: Sequence[Feature], x: Any, extras: Mapping[str, Any], running: Running) -> dict[str, Any]:
    """Runs a model of timm for features: one pass that gives the stages and everything behind them."""
    library = [f for f in features if isinstance(f, LibraryFeature)]
    others = [f for f in features if not isinstance(f, LibraryFeature)]
    stages = [f for f in library if f.kind == "stage"]
    kinds = {f.kind for f in library}
    out: dict[str, Any] = {}
    if not stages and not kinds & {"features", "pre_logits"}:
        whole = trunk(x, **extras)
        out |= {f.name: whole for f in library}
        return out | of_taps(trunk, others, whole, running)
    last: Any = None
    whole = None
    if stages:
        indices = sorted({f.index for f in stages})
        plain = [f for f in stages if not f.normed]
        if plain or len(kinds) > 1 or others:
            last, maps = intermediates(trunk, x, running, indices=indices, **extras)
            made = dict(zip(indices, maps, strict=True))
            out |= {f.name: running.raw(made[f.index]) for f in plain}
        normed = [f for f in stages if f.normed]
        if normed:
            at = sorted({f.index for f in normed})
            maps = intermediates(trunk, x, running, indices=at, norm=True, intermediates_only=True, **extras)
            made = dict(zip(at, maps, strict=True))
            out |= {f.name: running.raw(made[f.index]) for f in normed}
    else:
        last = trunk.forward_features(x, **extras)
    if "logits" in kinds or others:
        whole = trunk.forward_head(last) if classifies(trunk) else trunk(x, **extras)
    for feature in library:
        if feature.kind == "features":
            out[feature.name] = last
        elif feature.kind == "pre_logits":
            out[feature.name] = trunk.forward_head(last, pre_logits=True)
        elif feature.kind == "logits":
            out[feature.name] = whole
    return out | of_taps(trunk, others, whole, running)


def intermediates(trunk: Any, x: Any, running: Running, **options: Any) -> Any:
    """timm's `forward_intermediates`: maps, or tokens where a model reads the size of its maps off tensors."""
    try:
        return trunk.forward_intermediates(x, **options)
    except Exception:
        if "output_fmt" not in inspect.signature(trunk.forward_intermediates).parameters:
            raise
        running.forget()
        return trunk.forward_intermediates(x, output_fmt="NLC", **options)


def classifies(trunk: Any) -> bool:
    """Whether a model has a pooled vector and a classifier; timm's plain encoders have none."""
    return all(callable(getattr(trunk, name, None)) for name in ("forward_head", "get_classifier"))


class TimmNaming:
    """Names and makes the features of timm's models."""

    def covers(self, module: Any) -> bool:
        """Whether a module keeps to timm's interface."""
        return all(
            callable(getattr(module, n, None)) for n in ("forward_intermediates", "forward_features")
        ) and hasattr(module, "feature_info")

    def features(self, trunk: Any) -> list[Feature]:
        entries = published(trunk)
        found: list[Feature] = [
            LibraryFeature(
                name,
                aliases=aliases,
                layout="other",
                runner=run,
                kind="stage",
                index=i,
                module=entry.module,
                channels=entry.channels,
                reduction=entry.reduction,
            )
            for i, (entry, (name, aliases)) in enumerate(zip(entries, stage_names(entries), strict=True))
        ]
        width = getattr(trunk, "num_features", None)
        found.append(
            LibraryFeature(
                "features",
                aliases=("forward_features",),
                layout="other",
                runner=run,
                kind="features",
                channels=width if isinstance(width, int) else None,
                normed=True,
            )
        )
        if not classifies(trunk):
            return [*found, LibraryFeature("output", layout="other", runner=run, kind="logits", normed=True)]
        pooled = LibraryFeature(
            "pre_logits", aliases=("flatten",), layout="other", runner=run, kind="pre_logits", normed=True
        )
        return [
            *found,
            pooled,
            LibraryFeature("logits", aliases=("output",), layout="other", runner=run, kind="logits", normed=True),
        ]

    def default(self, trunk: Any) -> str:
        return "pre_logits" if classifies(trunk) else "output"

    def normed(self, feature: Feature, trunk: nn.Module, norm: bool) -> Feature | None:
        if not isinstance(feature, LibraryFeature):
            return None
        if feature.kind != "stage":
            return feature if norm else None
        return replace(feature, name=f"{feature.name}_norm", normed=True, channels=None) if norm else feature


NAMING = TimmNaming()
