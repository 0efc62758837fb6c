"""Operations between a feature and its head: pooling, flattening, combining several features."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphmodel.build.graph_writer import GraphWriter, Value
from graphmodel.components.features import FeatureError
from graphmodel.diagnostics import Span, first_line
from graphmodel.spec.model import Combine, PoolSpec, Source

getitem = operator.getitem


def prepare(writer: GraphWriter, value: Value, source: Source, span: Span | None, layout: str) -> Value:
    """The feature pooled and flattened as its reader asked; the opened trunk gives it in the requested layout.

    Args:
        writer: where the calls go.
        value: the feature.
        source: what its reader asked for.
        span: where.
        layout: how the feature's dimensions are arranged.

    Raises:
        FeatureError: if the operation does not fit the feature's shape.
    """
    if source.pool is not None:
        value = pool(writer, value, source.pool, span, "" if source.any_layout else layout)
    if source.flatten and len(value.pair[0].shape) > 2:
        value = writer.function("flatten", torch.flatten, (value, 1), name=f"{value.node}_flat", span=span)
    return value


def pool(writer: GraphWriter, value: Value, spec: PoolSpec, span: Span | None, layout: str) -> Value:
    """A pooled feature map.

    Raises:
        FeatureError: if the feature is not a map with channels first, or smaller than the kernel.
    """
    first = value.pair[0]
    if not isinstance(first, torch.Tensor) or first.ndim != 4:
        raise FeatureError(
            f"`{spec.op}` pools feature maps (N×C×H×W) and the feature is {value.text}",
            "reshape the tokens to a map (`layout: nchw`), or take their mean (`tokens: mean`)"
            if isinstance(first, torch.Tensor) and first.ndim == 3
            else "leave the pooling out, or read a feature map",
        )
    if layout == "nhwc":
        raise FeatureError(
            f"`{spec.op}` pools maps with channels first and the feature is {value.text}, channels last",
            "write `layout: nchw` beside the pooling",
        )
    try:
        return writer.function(
            spec.op,
            getattr(F, spec.op),
            (value,),
            dict(spec.params),
            name=f"{value.node}_{spec.op.removesuffix('2d')}",
            span=span,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise FeatureError(f"`{spec.op}` cannot pool a feature of shape {value.text}: {first_line(error)}") from None


def channel_axis(layout: str, flattened: bool) -> int:
    """Where a prepared feature has its channels: after the batch, or last if its layout says so."""
    return -1 if layout in ("nhwc", "nlc") and not flattened else 1


def is_channels_last(value: Value, sources: Sequence[Source], layouts: Sequence[str]) -> bool:
    """Whether what a head is about to read is a map whose channels come last."""
    if any(s.flatten or s.any_layout or s.pool is not None for s in sources) or "nhwc" not in layouts:
        return False
    first = value.pair[0]
    return isinstance(first, torch.Tensor) and first.ndim == 4


def layout_help(value: Value, layouts: Sequence[str]) -> str:
    """What to write if a head cannot read tokens or a map with channels last."""
    first = value.pair[0]
    if "nlc" in layouts and isinstance(first, torch.Tensor) and first.ndim == 3:
        return "for a map of the tokens write `layout: nchw`, for one vector `tokens: class` or `tokens: mean`"
    if "nhwc" in layouts and isinstance(first, torch.Tensor) and first.ndim == 4:
        return "its channels are last; write `layout: nchw` for a map with channels first"
    return ""


def combine(writer: GraphWriter, how: Combine, values: list[Value], name: str, axes: Sequence[int]) -> Value:
    """Several features as one value.

    Args:
        writer: where the calls go.
        how: `concat` along the channels, `sum`, `stack` after the batch, or a `list` for a head that takes one.
        values: the features.
        name: the output's name, for the call.
        axes: the channel axis of each feature.

    Raises:
        FeatureError: if they do not fit together.
    """
    label = f"{name}_{how}"
    shapes = ", ".join(v.text for v in values)
    if how == "list":
        return writer.function("list", list, (tuple(values),), name=label)
    if len({len(v.pair[0].shape) for v in values}) > 1 or (how == "concat" and len(set(axes)) > 1):
        raise FeatureError(
            f"`combine: {how}` needs features of one layout, these are {shapes}",
            "give each the same `layout` or pooling; the long form of `from` accepts them per feature",
        )
    if how != "concat" and len({tuple(v.pair[0].shape) for v in values}) > 1:
        raise FeatureError(f"`combine: {how}` needs features of one shape, these are {shapes}", "try `combine: concat`")
    try:
        if how == "stack":
            return writer.function("stack", torch.stack, (values, 1), name=label)
        if how == "concat":
            return writer.function("cat", torch.cat, (values, axes[0]), name=label)
        total = values[0]
        for i, value in enumerate(values[1:], 1):
            total = writer.function("add", operator.add, (total, value), name=label if i == len(values) - 1 else "")
        return total
    except (RuntimeError, TypeError) as error:
        raise FeatureError(f"`combine: {how}` cannot join {shapes}: {first_line(error)}") from None
