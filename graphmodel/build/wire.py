"""The third step of a build: features are pooled and joined, heads are called, and outputs get their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphmodel.build import edge_ops as ops
from graphmodel.build.bind import BoundEdge, BoundFeature, BoundModel, BoundModule, BoundSource
from graphmodel.build.call_heads import HeadCaller
from graphmodel.build.graph_writer import GraphWriter, Value
from graphmodel.build.open import FeatureValues, OpenedModel
from graphmodel.build.view_groups import Group
from graphmodel.components.features import FeatureError
from graphmodel.components.structure import leaves
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Collector, choices_help
from graphmodel.graph.types import Component, Output, find_output, output_names
from graphmodel.spec.document import KeyPath, dotted
from graphmodel.spec.model import ModelSpec, ResizeSpec

Reference = tuple[Value, tuple[Value, ...]]
"""A map that others get the size of, and the calls that give its size."""


@dataclass(frozen=True)
class WiredModel:
    """What a spec's outputs are in the graph.

    Attributes:
        components: the modules of heads by path.
        outputs: the outputs by name, in the order of the mapping.
    """

    components: Mapping[str, Component]
    outputs: Mapping[str, Output]


def wire(bound: BoundModel, opened: OpenedModel, writer: GraphWriter, report: Collector) -> WiredModel:
    """Writes the calls between features and outputs.

    Args:
        bound: the bound spec.
        opened: its features.
        writer: where the calls go.
        report: where findings go.

    Raises:
        CompileError: GM304 and GM306; one for each output at most.
    """
    heads = HeadCaller(bound.spec, writer, report)
    wirer = _Wirer(bound, opened, writer, report, heads)
    outputs = wirer.outputs()
    heads.check_copies()
    report.raise_errors()
    return WiredModel(heads.components, outputs)


@dataclass(frozen=True)
class _Wirer:
    bound: BoundModel
    opened: OpenedModel
    writer: GraphWriter
    report: Collector
    heads: HeadCaller
    values: dict[str, Value] = field(default_factory=dict)
    """The value of each tensor of an output, by its key: `jigsaw`, `swav.embedding`."""
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The inputs that an output comes from."""
    layouts: dict[str, str] = field(default_factory=dict)
    """How the dimensions of an output are arranged, if it is a feature that no head has changed."""

    def outputs(self) -> dict[str, Output]:
        """The outputs by name; one that reads an output which failed is left out without a finding of its own."""
        found: dict[str, Output] = {}
        for edge in self.bound.edges:
            read = {s.spec.output.partition(".")[0] for s in edge.sources if s.spec.output}
            output = self.output(edge) if read <= found.keys() else None
            if output is not None:
                found[output.name] = output
        return found

    def error(self, message: str, at: KeyPath, help: str = "") -> None:
        self.report.error("GM306", message, self.bound.spec.span(at), help, dotted(at))

    def output(self, edge: BoundEdge) -> Output | None:
        """One output, or None with the reason reported."""
        spec = edge.spec
        read = self.joined(edge) if _follows_another(edge) else (self.read(source, edge) for source in edge.sources)
        values = list(_until_none(read))
        if len(values) < len(edge.sources):
            return None
        layouts = [self.layout(source) for source in edge.sources]
        value = self.combined(edge, values, layouts)
        if value is None:
            return None
        self.origins[spec.output] = tuple(dict.fromkeys(i for s in edge.sources for i in self.inputs_of(s)))
        if spec.head is None:
            self.values[spec.output] = value
            self.layouts[spec.output] = self.untouched(edge, layouts)
            return Output(spec.output, {spec.output: value.node})
        if all(module.params.any_layout for module in edge.chain):
            self.layouts[spec.output] = self.untouched(edge, layouts)
        result = self.heads.chain(edge, value, layouts)
        if result is not None and edge.chain[-1].params.resizes_to_input():
            result = self.resized_to_input(edge, result)
        return None if result is None else self.parts(edge, result, edge.chain[-1])

    def combined(self, edge: BoundEdge, values: list[Value], layouts: list[str]) -> Value | None:
        """What the head of an output reads, or None with the reason reported."""
        spec, reads = edge.spec, edge.chain[0].params.reads if edge.chain else "tensor"
        how = spec.combine or ("concat" if reads == "tensor" else reads)
        if how in ("list", "dict") and not edge.chain:
            self.error(f"`combine: {how}` needs a head, and this output has none", (*spec.at, "combine"))
            return None
        named = next((s.spec for s in edge.sources if s.spec.key), None)
        if named is not None and how != "dict":
            message = f"`as: {named.key}` names a feature in a dict, and this output combines its sources by `{how}`"
            self.error(message, (*named.at[:-1], "as"), "leave `as` out, or write `combine: dict`")
            return None
        try:
            if how in ("list", "dict"):
                keys = self.keys(edge) if how == "dict" else [str(i) for i in range(len(values))]
                return ops.collected(self.writer, how, dict(zip(keys, values, strict=True)), spec.output)
            axes = [ops.channel_axis(a, s.spec.flatten) for a, s in zip(layouts, edge.sources, strict=True)]
            return ops.combine(self.writer, how, values, spec.output, axes) if len(values) > 1 else values[0]
        except FeatureError as error:
            self.error(str(error), spec.at, error.help)
            return None

    def keys(self, edge: BoundEdge) -> list[str]:
        """The keys of the sources of an output in a dict: their own names, or whole ones if these are not unique.

        Raises:
            FeatureError: if two are equal.
        """
        own = [s.spec.key or s.key_name for s in edge.sources]
        keys = [k if own.count(k) == 1 else s.spec.key or s.whole_name for k, s in zip(own, edge.sources, strict=True)]
        double = next((k for k in keys if keys.count(k) > 1), None)
        if double is not None:
            raise FeatureError(f"two features of a dict have the key `{double}`", "give each its own: `as: NAME`")
        return keys

    def inputs_of(self, source: BoundSource) -> tuple[str, ...]:
        """The inputs that a source comes from."""
        name = source.spec.output.partition(".")[0]
        return self.origins.get(name, ()) if name else (source.spec.input,)

    def input_size(self, source: BoundSource) -> tuple[Value, ...]:
        """The size of the images that a source comes from.

        Raises:
            FeatureError: if there are several sizes.
        """
        return ops.input_size(self.writer, [t for i in self.inputs_of(source) for t in self.opened.views[i]])

    def resized_to_input(self, edge: BoundEdge, value: Value) -> Value | None:
        """A head's result with the size of the images, or None with the reason reported."""
        tensors = [t for i in self.origins[edge.spec.output] for t in self.opened.views[i]]
        call = edge.chain[-1].call
        try:
            size = ops.input_size(self.writer, tensors)
            return ops.resize(self.writer, value, ResizeSpec(size=()), size, self.bound.spec.span(call.at), "")
        except FeatureError as error:
            self.error(f"the head `{call.name}` resizes its result: {error}", call.at, "write `upsample: false`")
            return None

    def read(self, source: BoundSource, edge: BoundEdge) -> Value | None:
        """A source as its reader asks for it, all views as one batch."""
        pooled = self.pooled(source, edge)
        return None if pooled is None else self.finished(source, edge, pooled)

    def joined(self, edge: BoundEdge) -> Iterator[Value | None]:
        """The sources of an output whose maps get the size of the largest or smallest of them."""
        pooled = []
        for source in edge.sources:
            found = self.pooled(source, edge)
            if found is None:
                yield None
                return
            pooled.append(found)
        following: dict[str, list[Value]] = {}
        for source, found in zip(edge.sources, pooled, strict=True):
            if source.spec.resize is not None and source.spec.resize.size in ("largest", "smallest"):
                following.setdefault(source.spec.resize.size, []).extend(found.values)
        references: dict[str, Reference] = {}
        for how, maps in following.items():
            at = next(r.at for s in edge.sources if (r := s.spec.resize) is not None and r.size == how)
            if len(maps) == 1:
                message = f"`resize: {how}` has one map to choose from, which would keep its size"
                self.error(message, at, "write a size, or `resize` beside the list of maps that are joined")
                yield None
                return
            try:
                references[how] = ops.reference_size(self.writer, maps, how)
            except FeatureError as error:
                self.error(str(error), at, error.help)
                yield None
                return
        for source, found in zip(edge.sources, pooled, strict=True):
            yield self.finished(source, edge, found, references)

    def pooled(self, source: BoundSource, edge: BoundEdge) -> FeatureValues | None:
        """A source detached and pooled as its reader asks, or None with the reason reported."""
        feature = self.source(source)
        if feature is None:
            return None
        span = self.bound.spec.span(edge.spec.at)
        try:
            values = [ops.pooled(self.writer, value, source.spec, span, feature.layout) for value in feature.values]
        except FeatureError as error:
            self.error(f"{error} (`{source.text}`)", (*source.spec.at, "pool"), error.help)
            return None
        return replace(feature, values=tuple(values))

    def finished(
        self,
        source: BoundSource,
        edge: BoundEdge,
        feature: FeatureValues,
        references: Mapping[str, Reference] | None = None,
    ) -> Value | None:
        """A pooled source resampled, flattened and normalized, all views as one batch."""
        span, resize = self.bound.spec.span(edge.spec.at), source.spec.resize
        at: KeyPath = (*source.spec.at, "pool")
        try:
            ready = list(feature.values)
            if resize is not None:
                at = resize.at
                layout = "" if source.spec.any_layout else feature.layout
                like: Value | None = None
                size: Sequence[Any]
                if resize.size == "input":
                    size = self.input_size(source)
                elif isinstance(resize.size, str):
                    like, size = (references or {})[resize.size]
                else:
                    size = resize.size
                ready = [
                    value if value is like else ops.resize(self.writer, value, resize, size, span, layout)
                    for value in ready
                ]
            at = (*source.spec.at, "normalize") if source.spec.normalize else at
            ready = [ops.finished(self.writer, value, source.spec, span, feature.layout) for value in ready]
            return self.in_view_order(source, feature, ready)
        except FeatureError as error:
            self.error(f"{error} (`{source.text}`)", at, error.help)
            return None

    def layout(self, source: BoundSource) -> str:
        """How a source's dimensions are arranged; empty if only their number tells."""
        if isinstance(source, BoundFeature):
            return self.opened.features[source.key].layout
        return self.layouts.get(source.spec.output, "")

    def untouched(self, edge: BoundEdge, layouts: list[str]) -> str:
        """The layout of an output that is its sources as they are."""
        kept = len(set(layouts)) == 1 and not any(s.spec.flatten for s in edge.sources)
        return layouts[0] if kept and edge.spec.combine in (None, "concat", "sum") else ""

    def source(self, source: BoundSource) -> FeatureValues | None:
        """A feature, an input's own tensors, or another output; None with the reason reported."""
        if isinstance(source, BoundFeature):
            return self.opened.features[source.key]
        if not source.spec.output:
            return self.opened.raw[source.spec.input]
        key = source.spec.output
        if key not in self.values:
            name = key.partition(".")[0]
            parts = [k for k in self.values if k.partition(".")[0] == name]
            at, is_key = source.place()
            several = "has several tensors" if key == name else f"has no tensor `{key.removeprefix(name + '.')}`"
            message, help = f"the output `{name}` {several}", choices_help(key, parts, "read one of")
            self.report.error("GM209", message, self.bound.spec.span(at, key=is_key), help, dotted(at))
            return None
        return FeatureValues((Group((0,), (), ""),), (self.values[key],), self.layout(source))

    def in_view_order(self, source: BoundSource, feature: FeatureValues, values: list[Value]) -> Value:
        """A feature of all views as one batch, in the order in which the views came.

        Raises:
            FeatureError: if the feature has another size at each resolution.
        """
        if len(values) == 1:
            return values[0]
        if len({tuple(v.pair[0].shape[1:]) for v in values}) > 1:
            raise FeatureError(
                f"views of several resolutions give features of several shapes ({', '.join(v.text for v in values)}), "
                "which cannot be one batch",
                "pool the feature to one size (`pool: {adaptive_avg_pool2d: 1}`), or read a pooled feature",
            )
        name = source.name
        order = [i for group in feature.groups for i in group.indices]
        if order == sorted(order):
            return self.writer.function("cat", torch.cat, (values,), name=name)
        pieces: dict[int, Value] = {}
        for group, value in zip(feature.groups, values, strict=True):
            if len(group.indices) == 1:
                pieces[group.indices[0]] = value
                continue
            views = self.opened.views[source.spec.input]
            sizes = [self.writer.method("size", (views[i], 0)) for i in group.indices]
            split = self.writer.function("split", torch.split, (value, sizes), name=f"{group.label}_split")
            for position, index in enumerate(group.indices):
                pieces[index] = self.writer.function("getitem", ops.getitem, (split, position))
        return self.writer.function("cat", torch.cat, ([pieces[i] for i in sorted(pieces)],), name=name)

    def parts(self, edge: BoundEdge, value: Value, module: BoundModule) -> Output | None:
        """The tensors of a head's result under their names."""
        info, output = value.info, edge.spec.output
        if not isinstance(info, (list, tuple, dict)):
            self.values[output] = value
            return Output(output, {output: value.node}, head=edge.spec.head)
        keys: list[Any] = list(info) if isinstance(info, dict) else list(range(len(info)))
        names = module.params.outputs() or tuple(str(k) for k in keys)
        parts: dict[str, str] = {}
        # A head may return only the first of its tensors for some features (iBOT: no patches for a class token).
        for key, name in zip(keys, names[: len(keys)], strict=True):
            self.add_parts(parts, value, key, output if len(keys) == 1 else f"{output}.{name}")
        if not parts:
            self.error(f"the head `{module.call.name}` returns no tensor", module.call.at)
            return None
        return Output(output, parts, nested=True, head=edge.spec.head)

    def add_parts(self, parts: dict[str, str], value: Value, key: Any, name: str) -> None:
        """Adds an item of a head's result, or the items inside of it: an LSTM returns a tuple in a tuple."""
        info: Any = value.info
        info = info[key]
        if info is None:
            return
        label = name.replace(".", "_")
        item = self.writer.function("getitem", ops.getitem, (value, key), name=label, kind="head")
        if isinstance(info, TensorInfo):
            parts[name], self.values[name] = item.node, item
            return
        for inner in list(info) if isinstance(info, dict) else range(len(info)):
            self.add_parts(parts, item, inner, f"{name}.{inner}")


def select_outputs(spec: ModelSpec, outputs: Mapping[str, Output], report: Collector) -> dict[str, Output]:
    """The outputs that a spec names, in its order; a name may be one tensor of a head's result (`swav.prototypes0`).

    Args:
        spec: the spec.
        outputs: all outputs of the mapping.
        report: where unknown names go (GM209).
    """
    found: dict[str, Output] = {}
    for name in leaves(spec.outputs):
        output = find_output(outputs, name)
        if output is None:
            known = choices_help(name, output_names(outputs), "outputs")
            report.error("GM209", f"unknown output `{name}`", spec.span(("outputs",)), known, "outputs")
        else:
            found[name] = output
    return found


def _follows_another(edge: BoundEdge) -> bool:
    """Whether a source gets the size of another one."""
    return any(s.spec.resize is not None and s.spec.resize.size in ("largest", "smallest") for s in edge.sources)


def _until_none(values: Iterator[Value | None]) -> Iterator[Value]:
    for value in values:
        if value is None:
            return
        yield value
