"""What must be true of stores before a probe reads them; everything that is wrong is reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from graphmodel.diagnostics import Collector, CompileError, choices_help
from graphmodel.extraction.features import FeatureDataset
from graphmodel.probing.target import Feature, Head

_LISTED = 3
_ROWS = 1024


def opened(report: Collector, store: str | Path, options: dict[str, object] | None) -> FeatureDataset | None:
    """The dataset of a store; None if it cannot be read, which is a finding."""
    try:
        return FeatureDataset(store, storage_options=options)
    except CompileError as error:
        for diagnostic in error.diagnostics:
            report.add(diagnostic)
        return None


def stored_names(data: FeatureDataset, features: Sequence[Feature]) -> dict[str, str]:
    """What each feature is called in a store: the name of an output that is computed in the same way, or its own.

    A feature has several names (`flatten` and `pre_logits`), and an output may be named in the spec, even like another
    feature. Features that the store does not have are left out.
    """
    record = data.record.get("digests", {})
    found = {}
    for feature in features:
        names = [name for name in data.outputs if record.get(name) == feature.digests] or [feature.name]
        name = feature.name if feature.name in names else names[0]
        if name in data.outputs:
            found[feature.name] = name
    return found


def check_features(report: Collector, data: FeatureDataset, features: Sequence[Feature], flag: str) -> None:
    """Checks that a store has the features, made by the same model with the same weights (GM611)."""
    record = data.record.get("digests", {})
    again = "extract the features of this spec with these weights (`graphmodel extract --frozen`)"
    other: dict[str, list[Feature]] = {"model": [], "weights": []}
    names = stored_names(data, features)
    for feature in features:
        if feature.name not in names:
            message = f"the store `{data.store}` has no `{feature.name}`"
            help = choices_help(feature.name, data.outputs, "features")
            report.error("GM611", message, feature.span, f"{help}; {again}", flag)
            continue
        shape = tuple(feature.info.shape[1:])
        stored = data.shape_of(names[feature.name])
        if None not in shape and all(isinstance(d, int) for d in shape) and stored != shape:
            message = (
                f"`{feature.name}` is {_times(stored)} in the store `{data.store}` and {_times(shape)} in the spec"
            )
            report.error("GM611", message, feature.span, again, flag)
            continue
        made = record.get(names[feature.name], {})
        for kind, features_of_kind in other.items():
            if made.get(kind) != feature.digests[kind]:
                features_of_kind.append(feature)
                break
    for kind, differing in other.items():
        if differing:
            listed = ", ".join(f"`{f.name}`" for f in differing[:_LISTED]) + (", …" if len(differing) > _LISTED else "")
            how = "by another model" if kind == "model" else "with other weights"
            help = "give the weights that the store was made with (`--weights`), or extract again"
            message = f"the store `{data.store}` holds {listed} computed {how}"
            report.error("GM611", message, None, again if kind == "model" else help, flag)


def check_labels(
    report: Collector, data: FeatureDataset, heads: Sequence[Head], flag: str, names: list[str] | None = None
) -> int:
    """Checks that a store has labels that the heads can learn (GM612).

    Args:
        report: takes the findings.
        data: the store.
        heads: the outputs.
        flag: the option that named the store.
        names: names of the classes of the other store.

    Returns:
        The number of classes.
    """
    labels = data.labels
    if not len(data):
        report.error("GM612", f"the store `{data.store}` has no readable sample", path=flag)
        return 0
    if labels is None:
        message = f"the store `{data.store}` has no labels"
        report.error("GM612", message, None, "extract from a folder with a directory for each class", flag)
        return 0
    if labels.dim() != 1 or labels.is_floating_point():
        what = f"of shape {tuple(labels.shape)}" if labels.dim() != 1 else f"of dtype {labels.dtype}"
        message = f"the labels in the store `{data.store}` are {what}"
        report.error("GM612", message, None, "a probe takes one class index for each sample", flag)
        return 0
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        bad = int((labels < 0).sum())
        message = f"{bad} labels in the store `{data.store}` are negative"
        report.error("GM612", message, None, "classes are numbered from 0", flag)
    classes = max(high + 1, len(data.classes or ()))
    for head in heads:
        width = int(head.node.info.shape[1])
        if width < classes:
            message = f"`{head.name}` gives {width} logits, and the store `{data.store}` has {classes} classes"
            report.error("GM612", message, head.node.span, f"give the head {classes} outputs", flag)
    if names is not None and data.classes is not None and names[: len(data.classes)] != data.classes[: len(names)]:
        at = next(i for i, pair in enumerate(zip(names, data.classes, strict=False)) if pair[0] != pair[1])
        message = f"class {at} is `{names[at]}` in the training data and `{data.classes[at]}` in `{data.store}`"
        report.error("GM612", message, None, "extract both from folders with the same class directories", flag)
    return classes


def check_finite(report: Collector, data: FeatureDataset, names: Sequence[str], flag: str) -> None:
    """Checks that no feature is infinite or not a number (GM613)."""
    bad: dict[str, list[int]] = {name: [] for name in names}
    chosen = FeatureDataset(data.store, names, storage_options=data.storage_options)
    for start in range(0, len(chosen), _ROWS):
        rows = torch.arange(start, min(start + _ROWS, len(chosen)))
        for name, value in chosen.take(rows)[0].items():
            if value.is_floating_point():
                finite = value.reshape(len(value), -1).sum(1, dtype=torch.float64).isfinite()
                bad[name] += rows[~finite].tolist()
    for name, found in bad.items():
        if found:
            shown = ", ".join(str(data.ids()[i]) for i in found[:_LISTED]) + (", …" if len(found) > _LISTED else "")
            count = f"{len(found)} samples" if len(found) > 1 else "1 sample"
            message = f"`{name}` is not finite for {count} of the store `{data.store}`: {shown}"
            help = "leave these images out, or extract with another --dtype or in float32"
            report.error("GM613", message, None, help, flag)


def _times(shape: Sequence[object]) -> str:
    return "×".join(map(str, shape)) or "a number"
