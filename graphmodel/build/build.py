"""Builds the graph of a spec: binds names, opens trunks, wires heads; every shape is checked on the meta device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphmodel.build import edge_ops as ops
from graphmodel.build.bind import Binder, BoundModule, BoundTrunk, builder_of
from graphmodel.build.freeze_patterns import resolve_patterns
from graphmodel.build.graph_writer import Value, Writer, version
from graphmodel.build.view_groups import Group, groups_of
from graphmodel.components.construct import build_on_meta
from graphmodel.components.features import FeatureError
from graphmodel.components.head import HeadMismatch
from graphmodel.diagnostics import Collector
from graphmodel.graph.facts import NO_FACTS, Facts
from graphmodel.graph.types import Component, ModelGraph, Output, head_path
from graphmodel.graph.verify import verify
from graphmodel.spec.document import dotted
from graphmodel.spec.model import Edge, InputSpec, ModelSpec, Source
from graphmodel.tracing.layout import FeatureRequest
from graphmodel.tracing.proxy import TraceError
from graphmodel.tracing.tracer import open_trunk

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "uint8", "int64", "bool")}


def build_graph(
    spec: ModelSpec, *, trunks: Mapping[str, nn.Module] | None = None, allow_imports: bool = False
) -> ModelGraph:
    """The graph of a spec; no weight is built.

    Args:
        spec: what `load_spec` returned.
        trunks: modules to use for trunks of these names, as they are.
        allow_imports: whether a spec's `module:` may import code.

    Returns:
        The verified graph, before any pass.

    Raises:
        CompileError: GM2xx and GM3xx; all that can be found at once.
    """
    return _Builder(spec, trunks or {}, allow_imports).run()


class _Builder:
    def __init__(self, spec: ModelSpec, given: Mapping[str, nn.Module], allow_imports: bool) -> None:
        self.spec = spec
        self.report = Collector()
        self.binder = Binder(spec, self.report, given, allow_imports)
        self.components: dict[str, Component] = {}
        self.layouts: dict[tuple[str, str, str], str] = {}

    def error(self, code: str, message: str, path: tuple[str | int, ...], help: str = "", *, key: bool = False) -> None:
        self.report.error(code, message, self.spec.span(path, key=key), help, dotted(path))

    def source_error(self, code: str, message: str, source: Source, help: str) -> None:
        """An error at a feature's name: a key in the short form of the mapping, the value of `from` in the long one."""
        self.error(code, message, source.at, help, key=source.at[-1:] != ("from",))

    def run(self) -> ModelGraph:
        spec = self.spec
        self.check_shapes()
        self.trunks = self.binder.trunks()
        self.heads = {name: self.binder.head(head) for name, head in spec.heads.items()}
        self.wanted = self.bind_features()
        self.report.raise_errors()
        multiple = math.lcm(*(m.params.batch_multiple() for chain in self.heads.values() for m in chain or ()), 1)
        self.writer = Writer((2 * multiple, 3 * multiple), list(spec.inputs))
        for trunk in self.trunks.values():
            self.components[trunk.component.name] = trunk.component
        self.tensors = {name: self.input_nodes(item) for name, item in spec.inputs.items()}
        self.features: dict[tuple[str, str, str], tuple[list[Group], list[Value]]] = {}
        for (name, trunk_name), features in self.wanted.items():
            self.run_trunk(spec.inputs[name], self.trunks[trunk_name], features)
        self.report.raise_errors()
        outputs: dict[str, Output] = {}
        for edge in spec.edges:
            output = self.wire(edge)
            if output is not None:
                outputs[output.name] = output
        self.report.raise_errors()
        frozen = resolve_patterns(spec, self.components, self.report)
        self.report.raise_errors()
        graph = ModelGraph(
            nodes={n.name: n for n in self.writer.nodes},
            components=self.components,
            inputs=spec.inputs,
            outputs=outputs,
            structure=spec.outputs,
            spec=spec,
            frozen=frozen,
        )
        verify(graph)
        return graph

    # -- inputs -------------------------------------------------------------------------------------------------------

    def check_shapes(self) -> None:
        for name, item in self.spec.inputs.items():
            if item.shape is None and item.views is None:
                self.error(
                    "GM301",
                    f"the input `{name}` has no shape",
                    item.at,
                    f"add `{name}: {{shape: [3, 224, 224]}}` under `inputs`, or pass `--input {name}=3x224x224`",
                    key=True,
                )

    def bind_features(self) -> dict[tuple[str, str], list[FeatureRequest]]:
        """For each input and trunk, the features that edges want of it, each once."""
        wanted: dict[tuple[str, str], list[FeatureRequest]] = {}
        for edge in self.spec.edges:
            for source in edge.sources:
                trunk = self.trunks.get(source.trunk or "")
                if trunk is None:
                    continue
                feature = trunk.find(source.feature)
                if feature is None:
                    message = f"the trunk `{trunk.spec.family}` has no feature `{source.feature}`"
                    self.source_error("GM213", message, source, trunk.feature_help(source.feature))
                    continue
                each = trunk.want(source)
                if each is None:
                    state = "with" if source.norm else "without"
                    self.error(
                        "GM306",
                        f"the feature `{feature.name}` of `{trunk.spec.family}` cannot be had {state} the final norm",
                        (*source.at, "norm"),
                        "leave `norm` out, or read another feature",
                    )
                    continue
                features = wanted.setdefault((source.input, trunk.spec.name), [])
                if each.name not in [w.name for w in features]:
                    features.append(each)
        return wanted

    def input_nodes(self, item: InputSpec) -> list[Value]:
        """The input's tensors: itself, or one value per view."""
        dtype = DTYPES[item.dtype]
        span = self.spec.span(item.at)
        if item.views is None:
            return [self.writer.placeholder(item.name, item.shape or (), dtype, span)]
        whole = self.writer.placeholder_list(item.name, item.views, dtype, span)
        return [
            self.writer.function("getitem", ops.getitem, (whole, i), name=f"{item.name}_{i}", kind="input", span=span)
            for i in range(len(item.views))
        ]

    # -- trunk passes -------------------------------------------------------------------------------------------------

    def run_trunk(self, item: InputSpec, trunk: BoundTrunk, features: list[FeatureRequest]) -> None:
        several = len(self.trunks) > 1
        groups = groups_of(item)
        results: list[dict[str, Value]] = []
        for group in groups:
            problem = trunk.family.check_input(trunk.params, group.shape, trunk.module)
            if problem is not None:
                self.error("GM305", problem, item.at, key=True)
                return
            scope = f"{group.label}_{trunk.spec.name}" if several else group.label
            value = self.joined(self.tensors[item.name], group, scope)
            main = self.channels(value, trunk, scope)
            extras = {c: self.joined(self.tensors[c], group, f"{c}_{scope}") for c in item.companions}
            try:
                opened = open_trunk(trunk.module, features, {"x": main.pair, **{k: v.pair for k, v in extras.items()}})
            except FeatureError as error:
                at = self.readers(item, trunk, error.name)
                self.error("GM306", str(error), at, error.help)
                return
            except TraceError as error:
                size = "×".join(str(d) for d in group.shape)
                shapes = self.binder.shapes(trunk.spec)
                size_help = trunk.family.input_help(trunk.params, group.shape, trunk.module, shapes)
                self.error(
                    "GM305" if size_help else "GM303",
                    f"the trunk `{trunk.spec.family}` cannot run on `{item.name}` ({size}): {error}",
                    item.at,
                    size_help or error.help or "check the input's shape and dtype against what the trunk takes",
                    key=True,
                )
                return
            for wanted in features:
                self.layouts[item.name, trunk.spec.name, wanted.name] = opened.layouts[wanted.name].layout
            trunk.component.extras.update(opened.extras)
            for path, extra in opened.extras.items():
                if isinstance(extra, nn.Module):
                    trunk.module.add_module(path, extra)
            alone = len(groups) == 1 and len(self.spec.inputs) - len(item.companions) == 1 and not several
            results.append(
                self.writer.embed(
                    opened,
                    {"x": main, **extras},
                    trunk.component.name,
                    "" if alone else f"{scope}_",
                    scope,
                    self.spec.span(trunk.spec.at),
                    Facts(grouped_views=len(group.indices)) if len(group.indices) > 1 else NO_FACTS,
                )
            )
        for feature in features:
            values = [r[feature.name] for r in results]
            self.features[item.name, trunk.spec.name, feature.name] = (groups, values)

    def readers(self, item: InputSpec, trunk: BoundTrunk, name: str) -> tuple[str | int, ...]:
        """The place in the spec that wants a feature of an input."""
        for edge in self.spec.edges:
            for source in edge.sources:
                if source.input == item.name and source.trunk == trunk.spec.name:
                    each = trunk.want(source)
                    if each is not None and each.name == name:
                        return source.at
        return item.at

    def joined(self, tensors: list[Value], group: Group, scope: str) -> Value:
        """The views of a group as one batch."""
        chosen = [tensors[i] for i in group.indices] if len(tensors) > 1 else tensors
        if len(chosen) == 1:
            return chosen[0]
        return self.writer.function(
            "cat", torch.cat, (chosen,), name=f"{scope}_views", facts=Facts(grouped_views=len(chosen))
        )

    def channels(self, value: Value, trunk: BoundTrunk, scope: str) -> Value:
        """The input in the channel order that the trunk expects."""
        kind = trunk.spec.input_type
        if kind == "bgr":
            return self.writer.function("bgr", torch.flip, (value, (1,)), name=f"{scope}_bgr")
        if kind == "lab":
            return self.writer.function(
                "lab", ops.getitem, (value, (slice(None), slice(0, 1))), name=f"{scope}_luminance"
            )
        return value

    def in_view_order(self, source: Source, groups: list[Group], values: list[Value], feature: FeatureRequest) -> Value:
        """A feature of all views as one batch, in the order in which the views came.

        Raises:
            FeatureError: where the feature has another size at each resolution.
        """
        if len(values) == 1:
            return values[0]
        if len({tuple(v.pair[0].shape[1:]) for v in values}) > 1:
            raise FeatureError(
                f"views of several resolutions give features of several shapes ({', '.join(v.text for v in values)}), "
                "which are no single batch",
                "pool the feature to one size (`pool: {adaptive_avg_pool2d: 1}`), or read a pooled feature",
            )
        name = f"{source.input}_{feature.name.replace('.', '_')}"
        order = [i for g in groups for i in g.indices]
        if order == sorted(order):
            return self.writer.function("cat", torch.cat, (values,), name=name)
        pieces: dict[int, Value] = {}
        for group, value in zip(groups, values, strict=True):
            if len(group.indices) == 1:
                pieces[group.indices[0]] = value
                continue
            sizes = [self.writer.method("size", (self.tensors[source.input][i], 0)) for i in group.indices]
            split = self.writer.function("split", torch.split, (value, sizes), name=f"{group.label}_split")
            for position, index in enumerate(group.indices):
                pieces[index] = self.writer.function("getitem", ops.getitem, (split, position))
        return self.writer.function("cat", torch.cat, ([pieces[i] for i in sorted(pieces)],), name=name)

    # -- heads --------------------------------------------------------------------------------------------------------

    def wire(self, edge: Edge) -> Output | None:
        values = []
        for source in edge.sources:
            value = self.read(source, edge)
            if value is None:
                return None
            values.append(value)
        value = values[0]
        if len(values) > 1:
            axes = [ops.channel_axis(self.layout(source), source.flatten) for source in edge.sources]
            try:
                value = ops.combine(self.writer, edge.combine, values, edge.output, axes)
            except FeatureError as error:
                self.error("GM306", str(error), edge.at, error.help)
                return None
        if edge.head is None and isinstance(value.info, list):
            self.error("GM306", "`combine: list` is for a head and this output has none", (*edge.at, "combine"))
            return None
        if edge.head is None:
            return Output(edge.output, {edge.output: value.node})
        chain = self.heads[edge.head]
        assert chain is not None, "unknown heads were reported before"
        for i, module in enumerate(chain):
            name = head_path(self.spec.heads[edge.head], i)
            first = all(earlier.params.any_layout for earlier in chain[:i])
            result = self.call_head(name, module, value, edge, first=first, last=i == len(chain) - 1)
            if result is None:
                return None
            value = self.single(result) if i < len(chain) - 1 else result
        return self.parts(edge, value, chain[-1])

    def layout(self, source: Source) -> str:
        """How a feature is arranged."""
        trunk = self.trunks[source.trunk or ""]
        wanted = trunk.want(source)
        assert wanted is not None, "unknown features were reported before"
        return self.layouts.get((source.input, trunk.spec.name, wanted.name), "other")

    def read(self, source: Source, edge: Edge) -> Value | None:
        trunk = self.trunks[source.trunk or ""]
        wanted = trunk.want(source)
        assert wanted is not None, "unknown features were reported before"
        groups, values = self.features[source.input, trunk.spec.name, wanted.name]
        span = self.spec.span(edge.at)
        try:
            # VISSL pools what it gets, whichever dimension holds the channels, and its files keep its numbers.
            layout = self.layout(source) if self.spec.dialect == "native" else ""
            ready = [ops.prepare(self.writer, value, source, span, layout) for value in values]
            return self.in_view_order(source, groups, ready, wanted)
        except FeatureError as error:
            self.error("GM306", f"{error} (`{source.input}.{wanted.feature.name}`)", (*source.at, "pool"), error.help)
            return None

    def call_head(
        self, name: str, module: BoundModule, value: Value, edge: Edge, *, first: bool, last: bool
    ) -> Value | None:
        where = ", ".join(
            f"`{s.input}.{s.feature or self.trunks[s.trunk or ''].find(None).name}`"  # type: ignore[union-attr]
            for s in edge.sources
        )
        info = value.info
        if first and self.spec.dialect == "native" and ops.is_channels_last(value, edge.sources, self.layout):
            if self.channels_last(module, value, edge, where):
                return None
            info = replace(info, layout="nhwc")
        label = f"{edge.output}" if last else f"{edge.output}_{name.rsplit('.', 1)[-1]}"
        known = self.components.get(name)
        try:
            params = module.params.infer(info) if not isinstance(info, (list, dict)) else module.params
            if known is not None and known.params != params:
                self.error(
                    "GM304",
                    f"the head `{module.call.name}` is shared and its inputs differ: {where} gives {value.text}",
                    edge.at,
                    "give each feature a head of its own",
                )
                return None
            component = known or Component(
                name,
                "head",
                module.entry.name,
                params,
                builder_of(module.entry, params),
                build_on_meta(builder_of(module.entry, params)),
                span=self.spec.span(module.call.at, key=True),
            )
            before = version(value)
            result = self.writer.module(label, component.meta, name, value, self.spec.span(module.call.at, key=True))
        except HeadMismatch as error:
            self.error(
                "GM304",
                f"the head `{module.call.name}` {error.message}" + self.origin(where, value),
                (*module.call.at, *error.path),
                error.help or ops.layout_help(value, [self.layout(s) for s in edge.sources]),
            )
            return None
        except Exception as error:  # whatever a head's own forward refuses is a mismatch of the spec
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.error(
                "GM304",
                f"the head `{module.call.name}` cannot read {where} of shape {value.text}: {text}",
                module.call.at,
                ops.layout_help(value, [self.layout(s) for s in edge.sources]),
                key=True,
            )
            return None
        if version(value) != before:
            result = self.writer.protect_last(value)
        self.components[name] = component
        return result

    def channels_last(self, module: BoundModule, value: Value, edge: Edge, where: str) -> bool:
        """Reports a map with channels last that nobody asked for and that the head would take for channels first."""
        if module.params.any_layout or any(s.layout == "nhwc" for s in edge.sources):
            return False
        self.source_error(
            "GM304",
            f"the head `{module.call.name}` reads {where} of shape {value.text}, a map with channels last",
            edge.sources[0],
            "write `layout: nchw` beside the feature, or `layout: nhwc` if the head takes it so",
        )
        return True

    def single(self, value: Value) -> Value:
        """The tensor that the next module of a chain reads; a list of one tensor is that tensor, as in VISSL."""
        if isinstance(value.info, (list, tuple)) and len(value.info) == 1:
            return self.writer.function("getitem", ops.getitem, (value, 0), name=f"{value.node}_value", kind="head")
        return value

    def origin(self, where: str, value: Value) -> str:
        return f" (it reads {where}, of shape {value.text})"

    def parts(self, edge: Edge, value: Value, module: BoundModule) -> Output:
        """The tensors of a head's result under their names."""
        info = value.info
        if not isinstance(info, (list, tuple, dict)):
            return Output(edge.output, {edge.output: value.node}, head=edge.head)
        keys: list[Any] = list(info) if isinstance(info, dict) else list(range(len(info)))
        names = module.params.outputs() or tuple(str(k) for k in keys)
        parts: dict[str, str] = {}
        # A head may return only the first of its tensors for some features (iBOT: no patches for a class token).
        for key, name in zip(keys, names[: len(keys)], strict=True):
            item = self.writer.function("getitem", ops.getitem, (value, key), name=f"{edge.output}_{name}", kind="head")
            parts[edge.output if len(keys) == 1 else f"{edge.output}.{name}"] = item.node
        return Output(edge.output, parts, nested=True, head=edge.head)
