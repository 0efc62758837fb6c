"""Features of timm's models, and of any module with timm's interface (`feature_info`, `forward_intermediates`).

Source: timm 1.0.31, `timm.models._features` and each model's `forward_intermediates`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from graphmodel.components.features import Feature, FeatureError, Running, of_taps
from graphmodel.components.library.naming import LibraryFeature, named_stages

NORMED = "_norm"
NO_NORM = "leave `norm` out"


def published(trunk: Any) -> list[LibraryFeature]:
    """What timm publishes about the intermediate features, which have no names yet."""
    info = getattr(trunk, "feature_info", None) or []
    info = getattr(info, "info", info)
    return [
        LibraryFeature(
            "",
            layout="other",
            runner=run,
            index=i,
            module=str(d.get("module", "")),
            channels=d.get("num_chs"),
            reduction=d.get("reduction"),
        )
        for i, d in enumerate(info)
    ]


def run(trunk: Any, features: Sequence[Feature], x: Any, extras: Mapping[str, Any], running: Running) -> dict[str, Any]:
    """Runs a model of timm for features: one pass that gives the stages and everything after them."""
    library = [f for f in features if isinstance(f, LibraryFeature)]
    others = [f for f in features if not isinstance(f, LibraryFeature)]
    stages = [f for f in library if f.kind == "stage"]
    kinds = {f.kind for f in library}
    if kinds <= {"logits"}:
        whole = trunk(x, **extras)
        return {f.name: whole for f in library} | of_taps(trunk, others, whole, running)
    out: dict[str, Any] = {}
    if stages:
        indices = sorted({f.index for f in stages})
        last, maps = intermediates(trunk, x, running, indices=indices, **extras)
        plain = {i: running.raw(m) for i, m in zip(indices, maps, strict=True)}
        out = {f.name: plain[f.index] for f in stages if not f.normed}
        out |= _normed([f for f in stages if f.normed], plain, trunk, x, extras, running)
    else:
        last = trunk.forward_features(x, **extras)
    whole = None
    if "logits" in kinds or others:
        whole = trunk.forward_head(last) if classifies(trunk) else trunk(x, **extras)
    # Before the head runs once more for the pooled vector: a tap is a module that was called once.
    tapped = of_taps(trunk, others, whole, running)
    for feature in library:
        if feature.kind == "pre_logits":
            out[feature.name] = trunk.forward_head(last, pre_logits=True)
        elif feature.kind != "stage":
            out[feature.name] = last if feature.kind == "features" else whole
    return out | tapped


def _normed(
    stages: Sequence[LibraryFeature],
    plain: Mapping[int, Any],
    trunk: Any,
    x: Any,
    extras: Mapping[str, Any],
    running: Running,
) -> dict[str, Any]:
    """The stages after the final norm.

    Raises:
        FeatureError: if timm has no norm for a stage; most pyramids have one for the last stage only.
    """
    if not stages:
        return {}
    indices = sorted({f.index for f in stages})
    try:
        maps = intermediates(trunk, x, running, indices=indices, norm=True, intermediates_only=True, **extras)
        made = {i: running.raw(m) for i, m in zip(indices, maps, strict=True)}
    except Exception as error:  # it ran without the norm, so the norm is the cause
        raise FeatureError(f"timm does not normalise its stages: {error}", NO_NORM, stages[0].name) from error
    for feature in stages:
        if running.same(made[feature.index], plain[feature.index]):
            name = feature.name.removesuffix(NORMED)
            raise FeatureError(f"the final norm of this model does not fit `{name}`", NO_NORM, feature.name)
    return {f.name: made[f.index] for f in stages}


def intermediates(trunk: Any, x: Any, running: Running, **options: Any) -> Any:
    """timm's `forward_intermediates`: maps, or tokens if a model reads the size of its maps from tensors."""
    try:
        return trunk.forward_intermediates(x, **options)
    except Exception as error:
        if "output_fmt" not in inspect.signature(trunk.forward_intermediates).parameters:
            raise
        running.forget()
        try:
            return trunk.forward_intermediates(x, output_fmt="NLC", **options)
        except Exception:  # most models return maps alone: the first error is about the trunk
            raise error from None


def classifies(trunk: Any) -> bool:
    """Whether a model has a pooled vector and a classifier; timm's plain encoders have none."""
    return all(callable(getattr(trunk, name, None)) for name in ("forward_head", "get_classifier"))


def classifiers(trunk: Any) -> tuple[str, ...]:
    """Paths of a model's classifiers, as timm publishes them: `head.fc`."""
    found = (getattr(trunk, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


class TimmNaming:
    """Names and makes the features of timm's models."""

    def covers(self, module: Any) -> bool:
        """Whether a module keeps to timm's interface."""
        return all(
            callable(getattr(module, n, None)) for n in ("forward_intermediates", "forward_features")
        ) and hasattr(module, "feature_info")

    def features(self, trunk: Any) -> list[Feature]:
        feature = partial(LibraryFeature, layout="other", runner=run)
        stages = named_stages(published(trunk))
        width = getattr(trunk, "num_features", None)
        last = feature(
            "features",
            aliases=("forward_features",),
            kind="features",
            normed=True,
            channels=width if isinstance(width, int) else None,
        )
        if not classifies(trunk):
            return [*stages, last, feature("output", kind="logits", normed=True)]
        # Opens a head that holds the classifier: closed, it would keep the classifier's weights, which do not train.
        taps = tuple(path for path in classifiers(trunk) if "." in path)
        pooled = feature("pre_logits", taps, aliases=("flatten",), kind="pre_logits", normed=True)
        return [*stages, last, pooled, feature("logits", aliases=("output",), kind="logits", normed=True)]

    def default(self, trunk: Any) -> str:
        return "pre_logits" if classifies(trunk) else "output"

    def normed(self, feature: Feature, trunk: nn.Module, norm: bool) -> Feature | None:
        if not isinstance(feature, LibraryFeature):
            return None
        if feature.kind != "stage":
            return feature if norm else None
        return replace(feature, name=feature.name + NORMED, normed=True, channels=None) if norm else feature


NAMING = TimmNaming()
