"""Describes the features of a trunk at one image size: shapes, layouts, strides, and the modules that produce them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from graphmodel.build.graph_writer import GraphWriter
from graphmodel.components.features import Feature
from graphmodel.components.tensors import TensorInfo
from graphmodel.tracing.errors import TraceError
from graphmodel.tracing.layout import FeatureLayout
from graphmodel.tracing.opening import open_trunk
from graphmodel.tracing.traced import TracedTrunk


@dataclass(frozen=True)
class FeatureDescription:
    """A feature of a trunk at one image size.

    Attributes:
        name: what specs call it.
        aliases: further names.
        module: the path of the module that produces it, with the position if the module returns several values.
        channels: its width.
        stride: input pixels per step, for maps and tokens on a grid.
        layout: how its dimensions are arranged, with the number of prefix tokens.
        shape: its shape and dtype; the batch is symbolic.
        disagrees: differences between the library's published metadata and the measured feature.
    """

    name: str
    aliases: tuple[str, ...]
    module: str
    channels: int | None
    stride: int | None
    layout: FeatureLayout
    shape: TensorInfo
    disagrees: tuple[str, ...] = ()


def describe(module: nn.Module, features: Sequence[Feature], shape: Sequence[int]) -> list[FeatureDescription]:
    """The available features of a trunk, except those that are not a single tensor.

    Raises:
        TraceError: if none is available.
    """
    low, high = (torch.empty((b, *shape), device="meta") for b in (2, 3))
    writer = GraphWriter((2, 3), [])

    def run(wanted: Sequence[Feature]) -> list[FeatureDescription]:
        opened = open_trunk(module, wanted, {"x": (low, high)})
        return [_described(f, opened, writer, shape) for f in wanted]

    try:
        return run(features)
    except TraceError as error:
        found: list[FeatureDescription] = []
        for feature in features:
            try:
                found += run([feature])
            except TraceError:
                continue
        if not found:
            raise error
        return found


def _described(feature: Feature, opened: TracedTrunk, writer: GraphWriter, shape: Sequence[int]) -> FeatureDescription:
    node = opened.features[feature.name]
    info = writer.info(node.meta["values"])
    layout = opened.layouts[feature.name]
    sizes = info.sample
    channels = {"nchw": 0, "nhwc": -1, "nlc": -1, "nc": -1}.get(layout.layout)
    width = sizes[channels] if channels is not None and sizes else None
    stride = round(shape[-2] / layout.grid[-2]) if layout.grid is not None and len(shape) in (3, 4) else None
    path = module_path(node) or str(getattr(feature, "module", ""))
    return FeatureDescription(
        feature.name, feature.aliases, path, width, stride, layout, info, _disagrees(feature, width, stride)
    )


def _disagrees(feature: Feature, channels: int | None, stride: int | None) -> tuple[str, ...]:
    published, reduction = getattr(feature, "channels", None), getattr(feature, "reduction", None)
    found = []
    if published is not None and channels is not None and published != channels:
        found.append(f"{published} channels published")
    # A published reduction is nominal: strides of 7, 14 and 28 are rounded if they do not divide the image.
    if reduction is not None and stride is not None and abs(reduction - stride) > 0.2 * reduction:
        found.append(f"stride {reduction} published")
    return tuple(found)


def module_path(node: fx.Node) -> str:
    """The path of the module whose result a value is; empty if no module returns it."""
    if node.op == "call_function" and node.target is torch.clone and isinstance(node.args[0], fx.Node):
        return module_path(node.args[0])
    if node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        inner = module_path(node.args[0])
        return f"{inner}[{node.args[1]}]" if inner and isinstance(node.args[1], (int, str)) else ""
    return str(node.target) if node.op == "call_module" else ""
