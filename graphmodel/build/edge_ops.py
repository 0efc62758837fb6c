"""Operations between a feature and its head: pooling, flattening, combining several features."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from graphmodel.build.graph_writer import GraphWriter, Value
from graphmodel.components.features import FeatureError
from graphmodel.diagnostics import Span, first_line
from graphmodel.spec.model import Combine, PoolSpec, ResizeSpec, Source
from graphmodel.spec.pools import POOLS

getitem = operator.getitem

MAPS = {1: "sequences (N×C×L)", 2: "feature maps (N×C×H×W)", 3: "volumes (N×C×D×H×W)"}
"""What operations in so many spatial dimensions read."""
MODES = {
    1: ("linear", "nearest", "nearest-exact", "area"),
    2: ("bilinear", "bicubic", "nearest", "nearest-exact", "area"),
    3: ("trilinear", "nearest", "nearest-exact", "area"),
}
"""How maps of so many spatial dimensions can be resampled."""


def pooled(writer: GraphWriter, value: Value, source: Source, span: Span | None, layout: str) -> Value:
    """The feature detached and pooled as its reader asked; the opened trunk gives it in the requested layout.

    Args:
        writer: where the calls go.
        value: the feature.
        source: what its reader asked for.
        span: where.
        layout: how the feature's dimensions are arranged.

    Raises:
        FeatureError: if the operation does not fit the feature's shape.
    """
    if source.detach:
        value = writer.function("detach", torch.detach, (value,), name=f"{value.node}_detached", span=span)
    if source.pool is not None:
        value = pool(writer, value, source.pool, span, "" if source.any_layout else layout)
    return value


def finished(writer: GraphWriter, value: Value, source: Source, span: Span | None, layout: str) -> Value:
    """A pooled feature flattened and normalized as its reader asked.

    Raises:
        FeatureError: if it has no channels to normalize over.
    """
    if source.flatten and len(value.pair[0].shape) == 1:  # one number per sample, as a vector
        value = writer.function("unsqueeze", torch.unsqueeze, (value, 1), name=f"{value.node}_flat", span=span)
    elif source.flatten and len(value.pair[0].shape) > 2:
        value = writer.function("flatten", torch.flatten, (value, 1), name=f"{value.node}_flat", span=span)
    if not source.normalize:
        return value
    first = value.pair[0]
    if not isinstance(first, torch.Tensor) or first.ndim < 2 or not first.is_floating_point():
        raise FeatureError(f"`normalize` needs vectors, tokens or maps of floating-point numbers, not {value.text}")
    rows = layout in ("nhwc", "nlc") or (first.ndim == 3 and layout != "nchw")  # sequences have their channels last
    kwargs = {"dim": -1 if rows and not source.flatten else 1}
    return writer.function("normalize", F.normalize, (value,), kwargs, name=f"{value.node}_normalized", span=span)


def pool(writer: GraphWriter, value: Value, spec: PoolSpec, span: Span | None, layout: str) -> Value:
    """A pooled feature map.

    Raises:
        FeatureError: if the feature is not a map with channels first, or smaller than the kernel.
    """
    first, dims = value.pair[0], POOLS[spec.op].dims
    if not isinstance(first, torch.Tensor) or first.ndim != dims + 2:
        rank = first.ndim if isinstance(first, torch.Tensor) else 0
        help = "leave the pooling out, or read a feature map"
        if rank == 3:
            help = "reshape the tokens to a map (`layout: nchw`), or take their mean (`tokens: mean`)"
        elif rank in (4, 5) and dims:
            help = f"write `{spec.op.removesuffix(f'{dims}d')}{rank - 2}d`"
        raise FeatureError(f"`{spec.op}` pools {MAPS[dims]} and the feature is {value.text}", help)
    refuse_channels_last(f"`{spec.op}` pools", value, layout)
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


def refuse_channels_last(what: str, value: Value, layout: str) -> None:
    """Refuses maps and tokens whose channels are last, which the operation would take for a spatial dimension.

    Raises:
        FeatureError: if the channels are last.
    """
    first = value.pair[0]
    if layout == "nhwc" and first.ndim in (4, 5):
        raise FeatureError(
            f"{what} maps with channels first and the feature is {value.text}, channels last",
            "write `layout: nchw` beside it",
        )
    if layout == "nlc" and first.ndim == 3:
        raise FeatureError(
            f"{what} sequences with channels first and the feature is {value.text}, tokens with channels last",
            "reshape the tokens to a map (`layout: nchw`), or take their mean (`tokens: mean`)",
        )


def resize(
    writer: GraphWriter, value: Value, spec: ResizeSpec, size: Sequence[Any], span: Span | None, layout: str
) -> Value:
    """A feature map resampled to a size; it may have that size already, but not for images of another size.

    Args:
        writer: where the calls go.
        value: the map.
        spec: how to resample.
        size: the size of each spatial dimension, or one for all; numbers, or values of calls that give them.
        span: where.
        layout: how the map's dimensions are arranged.

    Raises:
        FeatureError: if it is not a map with channels first, or the mode is for another number of dimensions.
    """
    first = value.pair[0]
    if not isinstance(first, torch.Tensor) or first.ndim not in (3, 4, 5):
        raise FeatureError(f"`resize` needs feature maps and the feature is {value.text}", "leave `resize` out")
    refuse_channels_last("`resize` resamples", value, layout)
    dims = first.ndim - 2
    sizes = list(size) * dims if len(size) == 1 else list(size)
    if len(sizes) != dims:
        message = f"`resize` gives {len(sizes)} sizes and the feature is {value.text}, {MAPS[dims]}"
        raise FeatureError(message, f"write one size for all dimensions, or {dims}")
    mode = spec.mode or ("linear", "bilinear", "trilinear")[dims - 1]
    kwargs: dict[str, Any] = {"size": tuple(sizes), "mode": mode}
    if mode in ("linear", "bilinear", "bicubic", "trilinear"):
        kwargs["align_corners"] = spec.align_corners
    if spec.antialias:
        kwargs["antialias"] = True
    try:
        return writer.function("resize", F.interpolate, (value,), kwargs, name=f"{value.node}_resized", span=span)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        message = f"`resize` cannot resample a feature of shape {value.text}: {first_line(error)}"
        raise FeatureError(message, f"modes for {MAPS[dims]}: {', '.join(MODES[dims])}") from None


def reference_size(writer: GraphWriter, maps: Sequence[Value], how: str) -> tuple[Value, tuple[Value, ...]]:
    """The `largest` or `smallest` of several maps, and its size as the model computes it: it follows the images.

    Raises:
        FeatureError: if none is the largest (smallest) in every dimension.
    """
    extreme = max if how == "largest" else min
    shapes = [tuple(m.pair[0].shape[2:]) if isinstance(m.pair[0], torch.Tensor) else () for m in maps]
    if len({len(shape) for shape in shapes}) > 1 or not shapes[0]:
        listed = ", ".join(m.text for m in maps)
        raise FeatureError(f"`resize: {how}` needs feature maps of one number of dimensions, these are {listed}")
    wanted = tuple(map(extreme, zip(*shapes, strict=True)))
    if wanted not in shapes:
        listed = ", ".join(m.text for m in maps)
        raise FeatureError(f"none of these maps is the {how} in every dimension: {listed}", "write the size")
    reference = maps[shapes.index(wanted)]
    return reference, tuple(writer.method("size", (reference, dim + 2)) for dim in range(len(wanted)))


def channel_axis(layout: str, flattened: bool) -> int:
    """Where a prepared feature has its channels: after the batch, or last if its layout says so."""
    return -1 if layout in ("nhwc", "nlc") and not flattened else 1


def is_channels_last(value: Value, sources: Sequence[Source], layouts: Sequence[str]) -> bool:
    """Whether what a head is about to read is a map whose channels come last."""
    if (
        any(s.flatten or s.any_layout or s.pool is not None or s.resize is not None for s in sources)
        or "nhwc" not in layouts
    ):
        return False
    first = value.pair[0]
    return isinstance(first, torch.Tensor) and first.ndim in (4, 5)


def layout_help(value: Value, layouts: Sequence[str]) -> str:
    """What to write if a head cannot read tokens, vectors, or a map."""
    first = value.pair[0]
    if "nlc" in layouts and isinstance(first, torch.Tensor) and first.ndim == 3:
        return "for a map of the tokens write `layout: nchw`, for one vector `tokens: class` or `tokens: mean`"
    if "nhwc" in layouts and isinstance(first, torch.Tensor) and first.ndim in (4, 5):
        return "its channels are last; write `layout: nchw` for a map with channels first"
    if "nchw" in layouts and isinstance(first, torch.Tensor) and first.ndim == 4:
        return "for tokens write `layout: nlc`, for vectors `pool: {adaptive_avg_pool2d: 1}` and `flatten: true`"
    if any(layouts) and isinstance(first, torch.Tensor) and first.ndim == 2:
        return "for a map read an earlier feature"
    return ""


def collected(writer: GraphWriter, how: Combine, values: Mapping[str, Value], name: str) -> Value:
    """Features for a head that takes a `list` or `dict` of them.

    Args:
        writer: where the calls go.
        how: which of the two.
        values: the features by their keys.
        name: the output's name, for the call.
    """
    label = f"{name}_{how}"
    if how == "list":
        return writer.function("list", list, (tuple(values.values()),), name=label)
    return writer.function("dict", dict, (tuple(values.items()),), name=label)


def input_size(writer: GraphWriter, tensors: Sequence[Value]) -> tuple[Value, ...]:
    """The size of images as the model computes it.

    Args:
        writer: where the calls go.
        tensors: the views of the inputs that a value comes from.

    Raises:
        FeatureError: if they are not images or differ in size.
    """
    shapes = {tuple(t.pair[0].shape[2:]) for t in tensors}
    if len(shapes) != 1 or not all(shapes):
        listed = ", ".join(dict.fromkeys(t.text for t in tensors))
        raise FeatureError(f"the result cannot have the size of the input, which is {listed}", "write the size")
    dims = len(next(iter(shapes)))
    return tuple(writer.method("size", (tensors[0], dim + 2)) for dim in range(dims))


def combine(writer: GraphWriter, how: Combine, values: list[Value], name: str, axes: Sequence[int]) -> Value:
    """Several features as one value.

    Args:
        writer: where the calls go.
        how: `concat` along the channels, `sum` or `stack` after the batch.
        values: the features.
        name: the output's name, for the call.
        axes: the channel axis of each feature.

    Raises:
        FeatureError: if they do not fit together.
    """
    label = f"{name}_{how}"
    shapes = ", ".join(v.text for v in values)
    if len({len(v.pair[0].shape) for v in values}) > 1 or (how == "concat" and len(set(axes)) > 1):
        help = "give each the same `layout` or pooling; the long form of `from` accepts them per feature"
        if any(v.pair[0].ndim == 1 for v in values):
            help = "`flatten: true` makes one number per sample a vector; the long form of `from` accepts it per source"
        raise FeatureError(f"`combine: {how}` needs features of one layout, these are {shapes}", help)
    help = ""
    if values[0].pair[0].ndim > 3 and len({v.pair[0].shape[2:] for v in values}) > 1 and axes[0] == 1:
        help = "give them one size: `resize: largest`, `smallest` or a size beside `combine`"
    if how != "concat" and len({tuple(v.pair[0].shape) for v in values}) > 1:
        message = f"`combine: {how}` needs features of one shape, these are {shapes}"
        raise FeatureError(message, help or "try `combine: concat`")
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
        raise FeatureError(f"`combine: {how}` cannot join {shapes}: {first_line(error)}", help) from None
