"""The second step of a build: inputs become values, trunks are opened on them, and their features are values too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from graphmodel.build import edge_ops as ops
from graphmodel.build.bind import BoundFeature, BoundModel, FeatureKey
from graphmodel.build.bind_trunks import BoundTrunk
from graphmodel.build.graph_writer import DTYPES, GraphWriter, Value
from graphmodel.build.remembered import traced
from graphmodel.build.view_groups import Group, groups_of
from graphmodel.components.features import FeatureError
from graphmodel.diagnostics import Collector
from graphmodel.graph.facts import NO_FACTS, Facts
from graphmodel.graph.types import Component
from graphmodel.spec.document import KeyPath, dotted
from graphmodel.spec.model import InputSpec, ModelSpec
from graphmodel.tracing.errors import NotATensor, TraceError
from graphmodel.tracing.image_sizes import Accepts
from graphmodel.tracing.layout import FeatureRequest
from graphmodel.tracing.opening import open_trunk
from graphmodel.tracing.traced import TracedTrunk


@dataclass(frozen=True)
class FeatureValues:
    """A feature of an input.

    Attributes:
        groups: the trunk passes that compute it.
        values: its value in each.
        layout: how its dimensions are arranged.
    """

    groups: tuple[Group, ...]
    values: tuple[Value, ...]
    layout: str


@dataclass(frozen=True)
class OpenedModel:
    """A bound spec whose features are values of the graph.

    Attributes:
        components: the trunks by path, with what their calls need beside their own modules.
        views: the tensors of each input: itself, or one for each view.
        features: the values of each feature.
        raw: the values of each input that a head reads itself.
        accepts: by input and position of the view, the per-sample shapes that each trunk pass over it accepts.
    """

    components: Mapping[str, Component]
    views: Mapping[str, Sequence[Value]]
    features: Mapping[FeatureKey, FeatureValues]
    raw: Mapping[str, FeatureValues]
    accepts: Mapping[tuple[str, int], Sequence[Accepts]]


def open_trunks(bound: BoundModel, writer: GraphWriter, report: Collector) -> OpenedModel:
    """Writes the inputs, and each trunk's calls for each input that it reads.

    Args:
        bound: the bound spec.
        writer: where the calls go.
        report: where findings go.

    Raises:
        CompileError: GM303, GM305 and GM306; one for each trunk and input.
    """
    spec = bound.spec
    views = {name: _write_input(item, spec, writer) for name, item in spec.inputs.items()}
    components = {trunk.component.name: trunk.component for trunk in bound.trunks.values()}
    companions = {c for item in spec.inputs.values() for c in item.companions}
    several = len(bound.trunks) > 1
    alone = not several and len(spec.inputs.keys() - companions) == 1
    features: dict[FeatureKey, FeatureValues] = {}
    accepts: defaultdict[tuple[str, int], list[Accepts]] = defaultdict(list)
    # Inputs and views of one shape are opened once: tracing takes time.
    by_shapes: dict[object, TracedTrunk] = {}
    for (name, trunk_name), sources in bound.requests().items():
        trunk = bound.trunks[trunk_name]
        run = _TrunkRun(spec, spec.inputs[name], trunk, sources, writer, report)
        groups = groups_of(run.item)
        found: list[dict[str, Value]] = []
        layouts: dict[str, str] = {}
        for group in groups:
            scope = f"{group.label}_{trunk_name}" if several else group.label
            inputs = run.inputs(group, views, scope)
            shapes = tuple((n, tuple(t.shape), t.dtype) for n, value in inputs.items() for t in value.pair)
            case = trunk_name, tuple(s.request for s in sources), shapes
            opened = by_shapes.get(case) or run.opened(group, inputs)
            if opened is None:
                break
            by_shapes[case] = opened
            component = _with_extras(components[trunk.component.name], opened)
            components[component.name] = component
            layouts |= {name: found.layout for name, found in opened.layouts.items()}
            for given, shape in opened.accepts.items():
                of = name if given == "x" else given
                for i in group.indices if len(views[of]) > 1 else (0,):
                    accepts[of, i].append(shape)
            prefix = "" if alone and len(groups) == 1 else f"{scope}_"
            found.append(run.embed(group, opened, inputs, prefix, scope))
        else:
            for source in sources:
                request = source.request.name
                values = tuple(values[request] for values in found)
                features[source.key] = FeatureValues(tuple(groups), values, layouts[request])
    report.raise_errors()
    read = {s.spec.input for edge in bound.edges for s in edge.sources if s.spec.trunk is None and s.spec.input}
    raw = {name: _raw(spec.inputs[name], views[name], writer) for name in spec.inputs if name in read}
    return OpenedModel(components, views, features, raw, accepts)


def _raw(item: InputSpec, tensors: Sequence[Value], writer: GraphWriter) -> FeatureValues:
    """An input itself; views of one shape are one batch."""
    groups = groups_of(item)
    values = []
    for group in groups:
        chosen = [tensors[i] for i in group.indices] if len(tensors) > 1 else list(tensors)
        joined = chosen[0]
        if len(chosen) > 1:
            facts = Facts(grouped_views=len(chosen))
            joined = writer.function("cat", torch.cat, (chosen,), name=f"{group.label}_views", facts=facts)
        values.append(joined)
    return FeatureValues(tuple(groups), tuple(values), "")


def _write_input(item: InputSpec, spec: ModelSpec, writer: GraphWriter) -> list[Value]:
    """The input's tensors: itself, or one value for each view."""
    dtype = DTYPES[item.dtype]
    span = spec.span(item.at)
    if item.views is None:
        return [writer.placeholder(item.name, item.shape or (), dtype, span)]
    whole = writer.placeholder_list(item.name, item.views, dtype, span)
    return [
        writer.function("getitem", ops.getitem, (whole, i), name=f"{item.name}_{i}", kind="input", span=span)
        for i in range(len(item.views))
    ]


@dataclass(frozen=True)
class _TrunkRun:
    """One trunk on one input."""

    spec: ModelSpec
    item: InputSpec
    trunk: BoundTrunk
    sources: Sequence[BoundFeature]
    writer: GraphWriter
    report: Collector

    def error(self, code: str, message: str, at: KeyPath, help: str = "", *, key: bool = True) -> None:
        self.report.error(code, message, self.spec.span(at, key=key), help, dotted(at))

    def inputs(self, group: Group, views: Mapping[str, Sequence[Value]], scope: str) -> dict[str, Value]:
        """What the trunk is called with, by name; `x` is its main input."""
        main = self.channels(self.joined(views[self.item.name], group, scope), scope)
        return {"x": main, **{c: self.joined(views[c], group, f"{c}_{scope}") for c in self.item.companions}}

    def joined(self, tensors: Sequence[Value], group: Group, scope: str) -> Value:
        """The views of a group as one batch."""
        chosen = [tensors[i] for i in group.indices] if len(tensors) > 1 else list(tensors)
        if len(chosen) == 1:
            return chosen[0]
        facts = Facts(grouped_views=len(chosen))
        return self.writer.function("cat", torch.cat, (chosen,), name=f"{scope}_views", facts=facts)

    def channels(self, value: Value, scope: str) -> Value:
        """The input in the channel order that the trunk expects."""
        kind = self.trunk.spec.input_type
        if kind == "bgr":
            return self.writer.function("bgr", torch.flip, (value, (1,)), name=f"{scope}_bgr")
        if kind == "lab":
            index = (slice(None), slice(0, 1))
            return self.writer.function("lab", ops.getitem, (value, index), name=f"{scope}_luminance")
        return value

    def opened(self, group: Group, inputs: Mapping[str, Value]) -> TracedTrunk | None:
        """The trunk opened on a group of views, or None with the reason reported."""
        trunk = self.trunk
        problem = trunk.family.check_input(trunk.params, group.shape, trunk.module)
        if problem is not None:
            self.error("GM305", problem, self.item.at)
            return None
        sample = {name: value.pair for name, value in inputs.items()}
        try:
            requests = [s.request for s in self.sources]
            return traced(trunk, requests, sample, lambda: open_trunk(trunk.module, requests, sample))
        except FeatureError as error:
            try:  # a trunk that cannot run at all has no layout either: that is what to report
                open_trunk(trunk.module, [FeatureRequest(s.request.feature) for s in self.sources], sample)
            except TraceError as cause:
                self.cannot_run(group, cause)
            except FeatureError:
                self.no_feature(error)
            else:
                self.no_feature(error)
        except TraceError as error:
            self.cannot_run(group, error)
        return None

    def no_feature(self, error: FeatureError) -> None:
        """Reports a feature that is not available as it was requested."""
        at = next((s.spec.at for s in self.sources if s.request.name == error.name), self.item.at)
        self.error("GM306", str(error), at, error.help, key=False)

    def cannot_run(self, group: Group, error: TraceError) -> None:
        """Reports a trunk that cannot run on an input."""
        trunk = self.trunk
        size = "×".join(str(d) for d in group.shape)
        theirs = trunk.family.input_help(trunk.params, group.shape, trunk.module, trunk.shapes)
        # Of a shape with the channels last, a family only sees another number of channels.
        own = _shape_mistake(group.shape)[1] if not error.help and (not theirs or "in_chans" in theirs) else ""
        size_help = "" if isinstance(error, NotATensor) else self.channels_help() or own or theirs
        cause = _shape_mistake(group.shape)[0] if size_help and size_help == own else str(error)
        self.error(
            "GM305" if size_help else "GM303",
            f"the trunk `{trunk.spec.family}` cannot run on `{self.item.name}` ({size}): {cause}",
            self.item.at,
            size_help or error.help or "check the input's shape and dtype against what the trunk takes",
        )

    def channels_help(self) -> str:
        """What to write if the inputs of the trunk have different numbers of channels, which no trunk can take."""
        counts = sorted({shape[0] for shape in self.trunk.shapes if shape})
        if len(counts) < 2:
            return ""
        listed = f"{', '.join(map(str, counts[:-1]))} and {counts[-1]}"
        return (
            f"the inputs of this trunk have {listed} channels: use two trunks, one for each number of channels "
            "(`trunks: {first: …, second: …}`)"
        )

    def embed(
        self, group: Group, opened: TracedTrunk, inputs: Mapping[str, Value], prefix: str, scope: str
    ) -> dict[str, Value]:
        """Copies the trunk's calls into the graph; returns the value of each feature."""
        count = len(group.indices)
        facts = Facts(grouped_views=count) if count > 1 else NO_FACTS
        span = self.spec.span(self.trunk.spec.at)
        return self.writer.embed(opened, inputs, self.trunk.component.name, prefix, scope, span, facts)


def _shape_mistake(shape: Sequence[int]) -> tuple[str, str]:
    """What is wrong with a shape that has the batch in it, its channels last or too few dimensions, and what to write.

    Empty for other shapes.
    """
    counts = (1, 3, 4)
    if len(shape) == 4 and shape[1] in (1, 3) and shape[2] > 4:
        help = f"a shape is that of one sample, without the batch: `[{', '.join(map(str, shape[1:]))}]`"
        return "its first dimension seems to be the batch", help
    if len(shape) == 3 and shape[2] in counts and shape[0] not in counts:
        return "its channels are last", f"a shape has the channels first: `[{shape[2]}, {shape[0]}, {shape[1]}]`"
    if len(shape) in (1, 2):
        few = "one dimension" if len(shape) == 1 else "two dimensions"
        height, width = (size if size > 4 else 224 for size in (shape[0], shape[-1]))
        if shape[0] <= 4 < shape[-1]:
            height = width
        images = f"a shape of images has channels, height and width: `[3, {height}, {width}]`"
        own = ", ".join(map(str, shape))
        unread = f"; an input that no trunk reads is marked so: `{{shape: [{own}], trunk: none}}`"
        return f"it has {few}", images + unread * (len(shape) == 1)
    return "", ""


def _with_extras(component: Component, opened: TracedTrunk) -> Component:
    """The component with what a pass through it calls beside its own modules.

    Each pass has modules and constants of its own, since what they fix may depend on the size of the images;
    names that another pass took are changed in the opened graph.
    """
    taken = {*component.extras, *dir(component.meta)}
    extras = dict(component.extras)
    for path, extra in opened.extras.items():
        name = path
        if component.extras.get(path, extra) is not extra:
            number = 1
            while (name := f"{path}_{number}") in taken:
                number += 1
            _rename_target(opened.graph, path, name)
        taken.add(name)
        extras[name] = extra
    return replace(component, extras=extras)


def _rename_target(graph: fx.Graph, old: str, new: str) -> None:
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target == old:
            node.target = new
