"""The first step of a build: binds every name in a spec to what it refers to; nothing runs yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from graphmodel.build.bind_trunks import BoundTrunk, TrunkBinder
from graphmodel.build.params import parse_params
from graphmodel.components.head import HeadParams
from graphmodel.components.registry import HeadEntry, find_head, unknown_head
from graphmodel.diagnostics import Collector
from graphmodel.spec.document import KeyPath, dotted
from graphmodel.spec.model import Edge, HeadSpec, ModelSpec, ModuleCall, Source
from graphmodel.spec.recovery import LOST, Findings
from graphmodel.tracing.layout import FeatureRequest

FeatureKey = tuple[str, str, str]
"""Names of an input, a trunk, and a feature as it is requested of them."""


@dataclass(frozen=True)
class BoundModule:
    """A module of a head with its validated parameters, which may still hold `auto`."""

    call: ModuleCall
    entry: HeadEntry
    params: HeadParams

    def build(self, params: HeadParams | None = None) -> nn.Module:
        """The module, with these parameters if given."""
        return self.entry.build(self.params if params is None else params)


@dataclass(frozen=True)
class BoundSource:
    """A source of an output: another output, an input itself, or (`BoundFeature`) a feature."""

    spec: Source

    @property
    def text(self) -> str:
        """`images.res5`, as messages name it."""
        return self.spec.output or self.spec.input

    @property
    def name(self) -> str:
        """A name for the nodes that prepare it."""
        return self.text.replace(".", "_")

    @property
    def key_name(self) -> str:
        """Its key in a dict of features."""
        return self.text

    @property
    def whole_name(self) -> str:
        """Its key if others in the dict have the same."""
        return self.text

    def place(self) -> tuple[KeyPath, bool]:
        """Where the feature is named: a key in the short form of the mapping, the value of `from` in the long one."""
        return place_of(self.spec)


@dataclass(frozen=True)
class BoundFeature(BoundSource):
    """A source that is a feature: the trunk that it reads, and the feature as it asks for it."""

    trunk: BoundTrunk
    request: FeatureRequest

    @property
    def key(self) -> FeatureKey:
        """What tells its feature from others."""
        return self.spec.input, self.trunk.spec.name, self.request.name

    @property
    def text(self) -> str:
        return f"{self.spec.input}.{self.spec.feature or self.request.feature.name}"

    @property
    def name(self) -> str:
        return f"{self.spec.input}_{self.request.name.replace('.', '_')}"

    @property
    def key_name(self) -> str:
        return self.spec.feature or self.request.feature.name

    @property
    def whole_name(self) -> str:
        trunk = self.trunk.spec.name
        return ".".join([self.spec.input, *([] if trunk == "trunk" else [trunk]), self.key_name])


@dataclass(frozen=True)
class BoundEdge:
    """An output with its sources and the modules of its head, if it has one."""

    spec: Edge
    sources: tuple[BoundSource, ...]
    chain: tuple[BoundModule, ...] = ()


@dataclass(frozen=True)
class BoundModel:
    """A spec with every name bound.

    Attributes:
        spec: the spec.
        trunks: its trunks by name.
        edges: its outputs in the order of the mapping.
    """

    spec: ModelSpec
    trunks: Mapping[str, BoundTrunk]
    edges: tuple[BoundEdge, ...]

    def requests(self) -> dict[tuple[str, str], list[BoundFeature]]:
        """For each input and trunk, one source for each feature that is requested, in the order of execution.

        Inputs go through trunks in the order of `inputs`; the features of one are in the order of the mapping.
        """
        sources: dict[FeatureKey, BoundFeature] = {}
        for edge in self.edges:
            for source in edge.sources:
                if isinstance(source, BoundFeature):
                    sources.setdefault(source.key, source)
        inputs = list(self.spec.inputs)
        ordered = sorted(sources.values(), key=lambda s: inputs.index(s.spec.input))
        found: dict[tuple[str, str], list[BoundFeature]] = {}
        for source in ordered:
            found.setdefault(source.key[:2], []).append(source)
        return found

    def batches(self) -> tuple[int, int]:
        """Two batch sizes that every head accepts."""
        # Heads one after the other each divide the batch that the one before it leaves.
        multiples: dict[str, int] = {}
        for edge in self.edges:
            read = (multiples.get(s.spec.output.partition(".")[0], 1) for s in edge.sources)
            own = math.prod(m.params.batch_multiple() for m in edge.chain)
            multiples[edge.spec.output] = own * math.lcm(*read)
        multiple = math.lcm(*multiples.values())
        return 2 * multiple, 3 * multiple


def bind(spec: ModelSpec, report: Collector, given: Mapping[str, nn.Module], allow_imports: bool) -> BoundModel:
    """Binds trunks, heads and features.

    Args:
        spec: the spec.
        report: where findings go.
        given: modules to use for trunks of these names, as they are.
        allow_imports: whether a spec's `module:` may import code.

    Findings are GM2xx, GM301 to GM303 and GM306; what has one is bound in part or not at all.
    """
    _check_shapes(spec, report)
    trunks = TrunkBinder(spec, report, given, allow_imports).bind()
    heads = {name: _bind_head(head, spec, report) for name, head in spec.heads.items() if not head.copy_of}
    heads |= {name: heads[head.copy_of] for name, head in spec.heads.items() if head.copy_of}
    edges = []
    for edge in spec.edges:
        sources = [bound for s in edge.sources if (bound := _bind_source(s, trunks, spec, report)) is not None]
        edges.append(BoundEdge(edge, tuple(sources), heads.get(edge.head or "", ())))
    return BoundModel(spec, trunks, tuple(edges))


def place_of(source: Source) -> tuple[KeyPath, bool]:
    """The path at which a feature is named, and whether it is a key there."""
    return source.at, source.at[-1:] != ("from",)


def _check_shapes(spec: ModelSpec, report: Collector) -> None:
    through_trunks = {s.input for edge in spec.edges for s in edge.sources if s.trunk is not None}
    written = Findings(report.errors)
    for name, item in spec.inputs.items():
        if written.concern(item.at):
            continue  # its shape may be what is wrong
        if item.shape == () and name in through_trunks:
            message = f"the input `{name}` has no dimensions beside the batch, and a trunk reads it"
            help = f"write the shape of one sample, such as `{name}: {{shape: [3, 224, 224]}}`"
            report.error("GM301", message, spec.span(item.at, key=True), help, dotted(item.at))
        if item.shape is None and item.views is None:
            report.error(
                "GM301",
                f"the input `{name}` has no shape",
                spec.span(item.at, key=True),
                f"add `{name}: {{shape: [3, 224, 224]}}` under `inputs`, or pass `--input {name}=3x224x224`",
                dotted(item.at),
            )


def _bind_head(head: HeadSpec, spec: ModelSpec, report: Collector) -> tuple[BoundModule, ...]:
    """The modules of a head; those that cannot be bound are reported and left out."""
    bound = []
    for call in head.chain:
        entry = find_head(call.name)
        if entry is None and call.name == LOST:
            continue
        if entry is None:
            message, help = unknown_head(call.name)
            report.error("GM206", message, spec.span(call.at, key=True), help, dotted(call.at))
            continue
        shared = {k: v for k, v in spec.head_defaults.items() if k in entry.params.model_fields}
        params = parse_params(entry.params, {**shared, **call.params}, spec, call.at, report)
        if params is not None:
            bound.append(BoundModule(call, entry, params))
    return tuple(bound)


def _bind_source(
    source: Source, trunks: Mapping[str, BoundTrunk], spec: ModelSpec, report: Collector
) -> BoundSource | None:
    if source.trunk is None:
        return _bind_value(source, spec, report)
    trunk = trunks.get(source.trunk)
    if trunk is None:
        return None  # it was reported
    feature = trunk.find(source.feature)
    if feature is None:
        at, key = place_of(source)
        message = f"the trunk `{trunk.spec.family}` has no feature `{source.feature}`"
        report.error("GM213", message, spec.span(at, key=key), trunk.feature_help(source.feature), dotted(at))
        return None
    request = trunk.request(feature, source)
    if request is None:
        at, state = (*source.at, "norm"), "with" if source.norm else "without"
        message = f"the feature `{feature.name}` of `{trunk.spec.family}` is not available {state} the final norm"
        report.error("GM306", message, spec.span(at), "leave `norm` out, or read another feature", dotted(at))
        return None
    return BoundFeature(source, trunk, request)


def _bind_value(source: Source, spec: ModelSpec, report: Collector) -> BoundSource | None:
    """A source that is an output or an input itself, which has no layout that a trunk would know."""
    bound = BoundSource(source)
    for key in ("layout", "tokens", "norm"):
        if getattr(source, key) is not None:
            at = (*source.at[:-1], key) if source.at[-1:] == ("from",) else source.at
            what = "another output" if source.output else "an input"
            message = f"`{key}` applies to features of a trunk, and `{bound.text}` is {what}"
            report.error("GM306", message, spec.span(at), f"leave `{key}` out", dotted(at))
            return None
    return bound
