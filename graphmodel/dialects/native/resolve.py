"""Resolves a native document into a `ModelSpec`: binds names, expands short forms, reports all errors at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.diagnostics import Collector
from graphmodel.dialects import Dialect
from graphmodel.dialects.native.copies import copied_trunk, find_originals, with_originals
from graphmodel.dialects.native.format import (
    CheckpointYaml,
    EdgeYaml,
    FeatureYaml,
    HeadCopyYaml,
    InputYaml,
    NativeSpec,
    SourceYaml,
    TrunkYaml,
)
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.dialects.native.outputs import name_outputs, select_outputs
from graphmodel.spec.document import Document, KeyPath, kind_of
from graphmodel.spec.model import (
    Checkpointing,
    Edge,
    HeadSpec,
    InputSpec,
    ModelSpec,
    ModuleCall,
    PoolSpec,
    Source,
    TrunkSpec,
    VisslNaming,
    WeightsSpec,
)
from graphmodel.spec.pools import POOLS


def resolve(document: Document, contents: NativeSpec, report: Collector, dialect: Dialect) -> ModelSpec:
    """The spec that a native document describes.

    Args:
        document: the document, for locations.
        contents: its validated contents.
        report: where findings go.
        dialect: the dialect it was written in.

    Raises:
        CompileError: GM2xx; every finding at once.
    """
    return _Resolver(document, contents, report, dialect).run()


class _Resolver:
    def __init__(self, document: Document, contents: NativeSpec, report: Collector, dialect: Dialect) -> None:
        self.document, self.contents, self.dialect = document, contents, dialect
        self.report = LocatedReport(document, report)

    def run(self) -> ModelSpec:
        contents = self.contents
        self.trunks = self.resolve_trunks()
        self.heads = self.resolve_heads()
        self.inputs = self.resolve_inputs()
        edges = self.resolve_edges()
        self.check_companions()
        self.report.found.raise_errors()
        mapped = name_outputs(edges, self.report)
        edges, outputs = select_outputs(mapped, contents.outputs, self.report)
        if not edges and not self.report.found.errors:
            key = "outputs" if self.contents.outputs is not None else "mapping"
            self.report.error(
                "GM209", "the model has no output", (key,), "map a feature or a head to an output", key=True
            )
        self.note_unused(edges, mapped)
        self.report.found.raise_errors()
        weights = contents.weights
        trunks = with_originals({s.trunk or "" for e in edges for s in e.sources}, self.trunks)
        heads = with_originals({e.head or "" for e in edges}, self.heads)
        spec = ModelSpec(
            name=contents.name,
            dialect=self.dialect.name,
            inputs=self.used_inputs(edges),
            trunks={n: t for n, t in self.trunks.items() if n in trunks},
            heads={n: h for n, h in self.heads.items() if n in heads},
            head_defaults=dict(contents.head_defaults),
            edges=tuple(edges),
            freeze=tuple([contents.freeze] if isinstance(contents.freeze, str) else contents.freeze),
            outputs=outputs,
            returns=contents.returns,
            checkpoint=_checkpointing(contents.checkpoint),
            optimize=tuple(contents.optimize) if isinstance(contents.optimize, list) else contents.optimize,
            weights=None
            if weights is None
            else WeightsSpec(
                file=weights.file,
                key=weights.key,
                skip=tuple(weights.skip),
                remove_prefix=weights.remove_prefix,
                append_prefix=weights.append_prefix,
                vissl=None
                if weights.vissl is None
                else VisslNaming(
                    feature_extractor=weights.vissl.feature_extractor,
                    composite_heads=tuple(weights.vissl.composite_heads),
                ),
                at=("weights",),
            ),
        )
        spec._document = self.document
        spec._notes = tuple(self.report.found.found)
        return spec

    # -- components ---------------------------------------------------------------------------------------------------

    def resolve_trunks(self) -> dict[str, TrunkSpec]:
        if self.contents.trunk is not None:
            return {"trunk": self.resolve_trunk("trunk", self.contents.trunk, ("trunk",))}
        written = self.contents.trunks or {}
        links = {n: t.copy_ for n, t in written.items() if isinstance(t, TrunkYaml) and t.copy_ is not None}
        chains = find_originals("trunk", list(written), links, self.report)
        trunks: dict[str, TrunkSpec] = {}
        for name, value in written.items():
            self.report.check_name(name, "a trunk", ("trunks", name))
            if name not in links:
                trunks[name] = self.resolve_trunk(name, value, ("trunks", name))
        for name, chain in chains.items():
            overrides = [t for n in reversed(chain[:-1]) if isinstance(t := written[n], TrunkYaml)]
            trunks[name] = copied_trunk(trunks[chain[-1]], name, overrides)
        return {name: trunks[name] for name in written if name in trunks}

    def resolve_trunk(self, name: str, value: str | TrunkYaml, path: KeyPath) -> TrunkSpec:
        if isinstance(value, str):
            return TrunkSpec(name=name, family=value, at=path)
        if value.copy_ is not None:
            self.report.error("GM205", f"unknown trunk `{value.copy_}`", (*path, "copy"), "there is no other trunk")
        return TrunkSpec(
            name=name,
            family=value.name or value.module or "",
            imports=value.module is not None,
            params=dict(value.model_extra or {}),
            freeze=value.freeze,
            input_type=value.input_type,
            memory_format=value.memory_format,
            pretrained=value.pretrained,
            at=path,
        )

    def resolve_heads(self) -> dict[str, HeadSpec]:
        written = self.contents.heads
        copies = {n: h for n, h in written.items() if isinstance(h, HeadCopyYaml)}
        links = {n: h.copy_ for n, h in copies.items()}
        chains = find_originals("head", list(written), links, self.report)
        heads: dict[str, HeadSpec] = {}
        for name, value in written.items():
            self.report.check_name(name, "a head", ("heads", name))
            if name not in links:
                heads[name] = self.resolve_head(name, value)
        for name, chain in chains.items():
            update = {"name": name, "copy_of": chain[-1], "freeze": copies[name].freeze, "at": ("heads", name)}
            heads[name] = heads[chain[-1]].model_copy(update=update)
        return {name: heads[name] for name in written if name in heads}

    def resolve_head(self, name: str, value: Any) -> HeadSpec:
        path: KeyPath = ("heads", name)
        items = [((*path, i), item) for i, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
        chain = []
        for at, item in items:
            call, params = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            chain.append(ModuleCall(name=call, params=params or {}, at=at if isinstance(item, str) else (*at, call)))
        return HeadSpec(name=name, chain=tuple(chain), at=path)

    def resolve_inputs(self) -> dict[str, InputSpec]:
        declared = self.contents.inputs
        if declared is None:
            names = list(self.contents.mapping) if isinstance(self.contents.mapping, dict) else []
            if isinstance(self.contents.mapping, list):
                for edge in self.contents.mapping:
                    items = edge.from_ if isinstance(edge.from_, list) else [edge.from_]
                    names += [(i if isinstance(i, str) else i.from_).partition(".")[0] for i in items]
            declared = dict.fromkeys(names or ["images"])
        inputs: dict[str, InputSpec] = {}
        for name, value in declared.items():
            path: KeyPath = ("inputs", name) if self.contents.inputs is not None else ("mapping", name)
            self.report.check_name(name, "an input", path)
            if not isinstance(value, InputYaml):
                inputs[name] = InputSpec(name=name, shape=value, at=path)
                continue
            views = None
            if value.views is not None:
                views = tuple(view.shape for view in value.views for _ in range(view.count))
            inputs[name] = InputSpec(
                name=name,
                shape=value.shape,
                views=views,
                dtype=value.dtype,
                grouping=value.grouping,
                companions=tuple(value.companions),
                at=path,
            )
        return inputs

    def check_companions(self) -> None:
        for name, item in self.inputs.items():
            for i, companion in enumerate(item.companions):
                if companion not in self.inputs or companion == name:
                    self.report.error(
                        "GM207",
                        f"the companion `{companion}` of the input `{name}` is not another input",
                        ("inputs", name, "with", i),
                        self.report.choices(companion, [n for n in self.inputs if n != name], "other inputs"),
                    )

    # -- mapping ------------------------------------------------------------------------------------------------------

    def resolve_edges(self) -> list[Edge]:
        mapping = self.contents.mapping
        if mapping is None:
            return self.default_edges()
        edges: list[Edge] = []
        if isinstance(mapping, list):
            for i, item in enumerate(mapping):
                edges += self.long_edge(item, ("mapping", i))
            return edges
        for name, features in mapping.items():
            path: KeyPath = ("mapping", name)
            if name not in self.inputs:
                self.report.error(
                    "GM207",
                    f"unknown input `{name}`",
                    path,
                    self.report.choices(name, list(self.inputs), "inputs"),
                    key=True,
                )
                continue
            if isinstance(features, dict):
                for feature, readers in features.items():
                    edges += self.feature_edges(f"{name}.{feature}", readers, (*path, feature))
            else:
                edges += self.feature_edges(name, features, path)
        return edges

    def default_edges(self) -> list[Edge]:
        if len(self.inputs) - len({c for i in self.inputs.values() for c in i.companions}) > 1 or len(self.trunks) > 1:
            self.report.error(
                "GM208",
                "several inputs or trunks need a `mapping`",
                (),
                "map features to heads, for example `mapping: {images: {res5: my_head}}`",
            )
            return []
        followers = {c for i in self.inputs.values() for c in i.companions}
        mains = [name for name in self.inputs if name not in followers]
        if not mains:
            self.report.error("GM207", "the spec has no input for the trunk", ("inputs",), key=True)
            return []
        trunk = next(iter(self.trunks))
        source = Source(input=mains[0], trunk=trunk, any_layout=self.dialect.any_layout, at=("trunk",))
        if not self.heads:
            return [Edge(sources=(source,), output="", at=())]
        return [Edge(sources=(source,), head=name, output="", at=head.at) for name, head in self.heads.items()]

    def feature_edges(self, text: str, readers: Any, path: KeyPath) -> list[Edge]:
        options = readers if isinstance(readers, FeatureYaml) else None
        source = self.source(text, options, path, path, key=True)
        names: list[tuple[str | None, KeyPath]] = []
        if options is not None:
            given = options.head if options.head is not None else options.heads
            key: KeyPath = (*path, "head" if options.head is not None else "heads")
        else:
            given, key = readers, path
        if given is None:
            names = [(None, path)]
        elif isinstance(given, str):
            names = [(given, key)]
        else:
            names = [(name, (*key, i)) for i, name in enumerate(given)]
        output = (options.as_ if options is not None else None) or ""
        return [
            Edge(sources=(source,), head=self.head_name(name, at), output=output, at=at)
            for name, at in names
            if source is not None
        ]

    def long_edge(self, item: EdgeYaml, path: KeyPath) -> list[Edge]:
        origins = item.from_ if isinstance(item.from_, list) else [item.from_]
        sources = []
        for i, origin in enumerate(origins):
            at: KeyPath = (*path, "from", i) if isinstance(item.from_, list) else (*path, "from")
            if isinstance(origin, SourceYaml):
                sources.append(self.source(origin.from_, origin, (*at, "from"), at))
            else:
                sources.append(self.source(origin, item, at, path))
        head = self.head_name(item.head, (*path, "head"))
        if any(s is None for s in sources):
            return []
        found = tuple(s for s in sources if s is not None)
        return [Edge(sources=found, combine=item.combine, head=head, output=item.as_ or "", at=path)]

    def head_name(self, name: str | None, path: KeyPath) -> str | None:
        if name is not None and name not in self.contents.heads:
            self.report.error(
                "GM206", f"unknown head `{name}`", path, self.report.choices(name, list(self.contents.heads), "heads")
            )
        return name

    def source(
        self,
        text: str,
        options: SourceYaml | EdgeYaml | FeatureYaml | None,
        path: KeyPath,
        at: KeyPath,
        *,
        key: bool = False,
    ) -> Source | None:
        name, _, rest = text.partition(".")
        if name not in self.inputs:
            help = self.report.choices(name, list(self.inputs), "inputs")
            self.report.error("GM207", f"unknown input `{name}`", path, help, key=key)
            return None
        trunk = next(iter(self.trunks), "trunk")
        first, _, tail = rest.partition(".")
        # With a single trunk its name is not needed: `images.trunk` is then MobileNet's feature of that name.
        if first in self.trunks and (tail or len(self.trunks) > 1 or first != "trunk"):
            trunk, rest = first, tail
        elif len(self.trunks) > 1:
            self.report.error(
                "GM205",
                f"`{text}` does not name a trunk" if not first else f"unknown trunk `{first}` in `{text}`",
                path,
                self.report.choices(
                    first, list(self.trunks), "with several trunks, write `input.trunk.feature`; trunks"
                ),
                key=key,
            )
            return None
        pool = self.pool(options.pool, (*at, "pool")) if options is not None else None
        return Source(
            input=name,
            trunk=trunk,
            feature=rest or None,
            pool=pool,
            flatten=options.flatten if options is not None else False,
            layout=options.layout if options is not None else None,
            tokens=options.tokens if options is not None else None,
            norm=options.norm if options is not None else None,
            any_layout=self.dialect.any_layout or (options is not None and options.any_layout),
            at=path,
        )

    def pool(self, value: Any, path: KeyPath) -> PoolSpec | None:
        if value is None:
            return None
        if isinstance(value, Mapping) and len(value) == 1:
            op, params = next(iter(value.items()))
        elif isinstance(value, str):
            op, params = value, {}
        else:
            self.report.error(
                "GM202", f"`pool` takes one operation, not {kind_of(value)}", path, "such as {avg_pool2d: 2}"
            )
            return None
        if op not in POOLS:
            self.report.error(
                "GM202",
                f"unknown pooling operation `{op}`",
                (*path, op),
                self.report.choices(op, list(POOLS), "known"),
                key=True,
            )
            return None
        names = POOLS[op].parameters
        if not isinstance(params, Mapping):
            params = {names[0]: params} if names else {}
        for key in params:
            if key not in names:
                self.report.error(
                    "GM201",
                    f"unknown key `{key}` in `{op}`",
                    (*path, op, key),
                    self.report.choices(key, names),
                    key=True,
                )
        if names and names[0] not in params:
            self.report.error(
                "GM203", f"missing key `{names[0]}` in `{op}`", (*path, op), f"add `{names[0]}`, such as {{{op}: 1}}"
            )
        fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
        return None if op == "identity" else PoolSpec(op=op, params=fixed, at=path)

    def used_inputs(self, edges: list[Edge]) -> dict[str, InputSpec]:
        names = {s.input for e in edges for s in e.sources}
        names |= {c for n in names if n in self.inputs for c in self.inputs[n].companions}
        return {n: i for n, i in self.inputs.items() if n in names}

    def note_unused(self, edges: list[Edge], mapped: list[Edge]) -> None:
        """Warns of heads, inputs and trunks that no output needs."""
        heads = with_originals({e.head or "" for e in mapped}, self.heads)
        inputs = self.used_inputs(edges)
        trunks = with_originals({s.trunk or "" for e in edges for s in e.sources}, self.trunks)
        for name, head in self.heads.items():
            if name not in heads:
                self.report.warning("GM210", f"no feature is mapped to the head `{name}`; it is left out", head.at)
        for name, item in self.inputs.items():
            if name not in inputs:
                self.report.warning("GM210", f"nothing reads the input `{name}`; it is left out", item.at)
        for name, trunk in self.trunks.items():
            if name not in trunks:
                self.report.warning("GM210", f"nothing reads the trunk `{name}`; it is left out", trunk.at)


def _checkpointing(value: bool | int | list[str] | CheckpointYaml) -> Checkpointing:
    if isinstance(value, CheckpointYaml):
        return value.model_dump(exclude_none=True)
    return tuple(value) if isinstance(value, list) else value
