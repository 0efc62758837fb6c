"""Expands `grid:` into heads and what they read: one head for every combination of the values of its axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from math import prod
from typing import Any

from graphmodel.dialects.native.chains import resolve_chain
from graphmodel.dialects.native.grid_format import MAX_HEADS, GridLayerYaml, GridTokensYaml, GridYaml
from graphmodel.dialects.native.head_format import HeadCopyYaml
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.dialects.native.mapping import MappingResolver
from graphmodel.dialects.native.operations import resolve_pool, resolve_resize
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import Edge, HeadSettings, HeadSpec, ModuleCall, Source
from graphmodel.spec.names import name_problem
from graphmodel.spec.pools import POOLS
from graphmodel.spec.recovery import LOST


@dataclass(frozen=True)
class _Value:
    """One value of an axis.

    Attributes:
        label: what the names of heads say of it; empty if it is not in a list or a mapping.
        value: the value.
        at: where it is written.
        prefix: what stands before the label in the names of heads.
    """

    label: str
    value: Any
    at: KeyPath
    prefix: str = ""


@dataclass(frozen=True)
class GridHead:
    """A head of a grid, and what it reads.

    Attributes:
        spec: the head.
        grid: the grid as it was written, and its path.
        layer: its value of `layers`; None for the trunk's default feature.
        pool: its value of `pool`.
        tokens: its value of `tokens`.
    """

    spec: HeadSpec
    grid: GridYaml
    at: KeyPath
    layer: _Value
    pool: _Value
    tokens: _Value


def expand_grids(grids: Mapping[str, GridYaml], taken: Sequence[str], report: LocatedReport) -> dict[str, GridHead]:
    """The heads of all grids by name, in the order of the file; the last axis changes fastest.

    Args:
        grids: the grids by name.
        taken: names of other heads.
        report: where duplicate names and invalid values go.
    """
    heads: dict[str, GridHead] = {}
    for name, grid in grids.items():
        at: KeyPath = ("grid", name)
        report.check_name(name, "a grid", at)
        for head in _Expansion(name, grid, at, report).heads():
            other = heads.get(head.spec.name)
            if head.spec.name in taken:
                message = f"the grid `{name}` makes a head `{head.spec.name}`, and `heads` has one of that name"
                report.error("GM215", message, at, "rename the grid, or the other head", key=True)
            elif other is not None:
                whose = f"the grid `{other.at[-1]}` makes it too" if other.at != at else "two combinations make it"
                message = f"the grid `{name}` makes a head `{head.spec.name}`, and {whose}"
                report.error("GM215", message, at, "name the values so that they tell the heads apart", key=True)
            else:
                heads[head.spec.name] = head
                continue
            break
    return heads


@dataclass(frozen=True)
class _Expansion:
    name: str
    grid: GridYaml
    at: KeyPath
    report: LocatedReport

    def heads(self) -> Iterator[GridHead]:
        grid = self.grid
        if isinstance(grid.head, HeadCopyYaml):
            message = f"the head of the grid `{self.name}` is a copy"
            self.report.error(
                "GM215", message, (*self.at, "head"), "give it modules: `head: {mlp: {dims: [auto, 10]}}`"
            )
            return
        chain = resolve_chain(grid.head, (*self.at, "head"))
        axes: dict[str, list[_Value]] = {
            "layers": self.axis("layers", self.grid.layers),
            "pool": self.pools(),
            "tokens": self.axis("tokens", grid.tokens),
        }
        axes |= self.params(chain)
        axes |= {key: self.axis(key, getattr(grid, key), f"{key}_") for key in ("lr", "weight_decay")}
        count = prod(len(values) for values in axes.values())
        if count > MAX_HEADS:
            sizes = " x ".join(f"{len(v)} `{k}`" for k, v in axes.items() if len(v) > 1)
            message = f"the grid `{self.name}` makes {count:,} heads ({sizes}); the limit is {MAX_HEADS:,}"
            self.report.error("GM216", message, self.at, "leave values out, or divide the model into several", key=True)
            return
        if not all(axes.values()) or not self.are_distinct(axes):
            return
        for values in product(*axes.values()):
            yield self.head(chain, dict(zip(axes, values, strict=True)))

    def head(self, chain: tuple[ModuleCall, ...], values: Mapping[str, _Value]) -> GridHead:
        labelled = {key: value for key, value in values.items() if value.label}
        own = {k.removeprefix("params."): v.value for k, v in values.items() if k.startswith("params.")}
        if own:
            chain = (chain[0].model_copy(update={"params": {**chain[0].params, **own}}),)
        settings = HeadSettings(
            lr=values["lr"].value,
            weight_decay=values["weight_decay"].value,
            grid=self.name,
            labels={key.removeprefix("params."): value.label for key, value in labelled.items()},
        )
        name = "_".join([self.name, *(value.prefix + value.label for value in labelled.values())])
        spec = HeadSpec(name=name, chain=chain, settings=settings, at=(*self.at, "head"))
        return GridHead(spec, self.grid, self.at, values["layers"], values["pool"], values["tokens"])

    def are_distinct(self, axes: Mapping[str, Sequence[_Value]]) -> bool:
        """Whether no axis has two values of one name; reported if it has."""
        fine = True
        for key, values in axes.items():
            seen: set[str] = set()
            for value in values:
                if value.label in seen:
                    key = key.rpartition(".")[2]
                    message = f"two values of `{key}` are named `{value.label}` in the names of heads"
                    self.report.error("GM215", message, value.at, "leave one of them out, or rename it")
                    fine = False
                seen.add(value.label)
        return fine

    # -- axes ---------------------------------------------------------------------------------------------------------

    def axis(self, key: str, written: Any, prefix: str = "") -> list[_Value]:
        """The values of an axis: those of a list or of a mapping that names them, or a single value without a label."""
        at: KeyPath = (*self.at, *key.split("."))
        if isinstance(written, Mapping):
            return [_Value(self.label(name, (*at, name)), value, (*at, name)) for name, value in written.items()]
        if not isinstance(written, list):
            return [_Value("", written, at)]
        values = []
        for i, value in enumerate(written):
            text = label_of(value)
            if text is None:
                message = f"a value of `{key.rpartition('.')[2]}` in a list has no name that a head could have"
                help = "name the values: `{small: …, large: …}` instead of a list"
                self.report.error("GM215", message, (*at, i), help)
                return []
            values.append(_Value(text, value, (*at, i), prefix))
        return values

    def label(self, name: str, at: KeyPath) -> str:
        text = label_of(name) or ""
        if name_problem(f"x{text}", "a head") is not None:
            self.report.error(
                "GM204", f"`{name}` cannot be part of the name of a head", at, "use letters and digits", key=True
            )
        return text

    def pools(self) -> list[_Value]:
        written = self.grid.pool
        if isinstance(written, Mapping) and len(written) == 1 and next(iter(written)) in POOLS:
            return [_Value("", written, (*self.at, "pool"))]
        if written == [] or written == {}:
            self.report.error("GM202", f"`grid.{self.name}.pool` has no value", (*self.at, "pool"), "leave it out")
            return []
        return self.axis("pool", written)

    def params(self, chain: tuple[ModuleCall, ...]) -> dict[str, list[_Value]]:
        if self.grid.params and len(chain) > 1:
            message = f"`params` belong to one module, and the head of the grid `{self.name}` has {len(chain)}"
            self.report.error(
                "GM215", message, (*self.at, "params"), "use one grid for each variant of the head", key=True
            )
            return {}
        found = {}
        for key, written in self.grid.params.items():
            if key in chain[0].params:
                message = f"`{key}` is a parameter of the head and an axis of the grid `{self.name}`"
                self.report.error("GM215", message, (*self.at, "params", key), "keep one of them", key=True)
            prefix = "" if isinstance(written, Mapping) else f"{key}_"
            found[f"params.{key}"] = self.axis(f"params.{key}", written, prefix)
        return found


def label_of(value: Any) -> str | None:
    """How a value reads in the name of a head: `0_001`, `1e_7`, `layer2_0`; None if it has no short form.

    Example:
        >>> label_of(1e-5), label_of(0.1), label_of("blocks.11"), label_of(True), label_of([1, 2])
        ('0_00001', '0_1', 'blocks_11', 'true', None)
        >>> label_of({"adaptive_avg_pool2d": 6})
        'adaptive_avg_pool2d_6'
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        text = format(Decimal(repr(value)).normalize(), "f") if 1e-7 <= abs(value) < 1e12 or not value else repr(value)
        text = f"minus_{text[1:]}" if text.startswith("-") else text
        return text.replace(".", "_").replace("-", "_").replace("+", "")
    if isinstance(value, str):
        return "".join(c if c.isalnum() or c == "_" else "_" for c in value)
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, inner),) = value.items()
        below = "" if inner is None else label_of(inner)
        return None if below is None or isinstance(inner, Mapping) else f"{label_of(key)}_{below}".rstrip("_")
    return None


# -- what heads read --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridEdges:
    """The edges of the heads of grids.

    Attributes:
        mapping: resolves names of features.
        report: where findings go.
        sources: the sources of each combination of a layer, a pool and tokens; mistakes are reported once.
    """

    mapping: MappingResolver
    report: LocatedReport
    sources: dict[tuple[KeyPath, KeyPath, KeyPath], tuple[Source, ...] | None] = field(default_factory=dict)

    def edges(self, heads: Iterable[GridHead]) -> list[Edge]:
        """The edges of all heads."""
        return [self.edge(head) for head in heads]

    def edge(self, head: GridHead) -> Edge:
        """What a head reads; `LOST` stands for sources with a mistake, which is reported."""
        key = head.layer.at, head.pool.at, head.tokens.at
        if key not in self.sources:
            self.sources[key] = self.resolve(head)
        sources = self.sources[key]
        if sources is None:
            sources = (Source(input=LOST, trunk=None, at=head.layer.at),)
        combine = head.layer.value.combine if isinstance(head.layer.value, GridLayerYaml) else None
        return Edge(sources=sources, combine=combine, head=head.spec.name, output=head.spec.name, at=head.layer.at)

    def resolve(self, head: GridHead) -> tuple[Source, ...] | None:
        name = self.input(head)
        if name is None:
            return None
        grid, layer = head.grid, head.layer
        options = layer.value if isinstance(layer.value, GridLayerYaml) else None
        features = self.features(head)
        pool, pool_at = head.pool.value, head.pool.at
        if options is not None and options.pool is not None:
            if head.pool.label:
                self.twice("pool", head)
                return None
            pool, pool_at = options.pool, (*layer.at, "pool")
        tokens = head.tokens.value
        if options is not None and options.tokens is not None:
            if head.tokens.label:
                self.twice("tokens", head)
                return None
            tokens = options.tokens
        own = options.model_fields_set if options is not None else set()
        written = {k: getattr(options, k) for k in own - {"feature", "combine", "pool", "tokens"}}
        common = {k: getattr(grid, k) for k in ("norm", "flatten", "normalize", "detach")}
        found: list[Source] = []
        resolved = resolve_pool(pool, pool_at, self.report)
        for feature, at, kind in with_tokens(features, tokens):
            source = self.mapping.source(f"{name}.{feature}" if feature else name, None, at, at, key=at == layer.at)
            update = {**common, **written, "pool": resolved, "tokens": kind}
            update["any_layout"] = source.any_layout or bool(written.get("any_layout"))
            update["resize"] = resolve_resize(written.get("resize"), (*layer.at, "resize"))
            found.append(source.model_copy(update=update))
        return tuple(found)

    def input(self, head: GridHead) -> str | None:
        """The input that a head reads, or None with the reason reported."""
        name, inputs = head.grid.input, self.mapping.inputs
        if name is not None:
            known = self.mapping.is_known(name, (*head.at, "input"), key=False)
            return name if known else None
        followers = {c for i in inputs.values() for c in i.companions}
        mains = [n for n, i in inputs.items() if n not in followers and (not i.raw or not self.mapping.trunks)]
        if len(mains) != 1:
            message = f"the grid `{head.at[-1]}` does not say which input its heads read"
            help = self.report.choices("", mains, "add `input:` with one of")
            self.report.error("GM207", message, head.at, help, key=True)
            return None
        return mains[0]

    def features(self, head: GridHead) -> list[tuple[str, KeyPath]]:
        """The features of a layer, and where each is named."""
        value, at = head.layer.value, head.layer.at
        if isinstance(value, GridLayerYaml):
            value, at = (value.feature, (*at, "feature")) if value.feature is not None else (None, at)
        if isinstance(value, list):
            return [(feature, (*at, i)) for i, feature in enumerate(value)]
        if value is None and head.grid.layers is not None:
            value = str(at[-1])
        return [(value or "", at)]

    def twice(self, key: str, head: GridHead) -> None:
        message = (
            f"`{key}` is set for the layer `{head.layer.at[-1]}` and has several values in the grid `{head.at[-1]}`"
        )
        self.report.error("GM215", message, (*head.layer.at, key), "set it in one of the two places", key=True)


def with_tokens(features: Sequence[tuple[str, KeyPath]], tokens: Any) -> Iterator[tuple[str, KeyPath, str | None]]:
    """Each feature with the tokens that are read of it, in the order in which they are joined."""
    each, last = (tokens.each, tokens.last) if isinstance(tokens, GridTokensYaml) else (tokens, None)
    for feature, at in features:
        if each is not None or not isinstance(tokens, GridTokensYaml):
            for kind in each if isinstance(each, list) else [each]:
                yield feature, at, kind
    feature, at = features[-1]
    for kind in last if isinstance(last, list) else [last] if last is not None else []:
        yield feature, at, kind
