"""Resolves a native document into a `ModelSpec`: binds names, expands short forms, reports all errors at once."""

from __future__ import annotations

from graphmodel.diagnostics import Collector
from graphmodel.dialects import Dialect
from graphmodel.dialects.native.chains import resolve_chain, with_settings
from graphmodel.dialects.native.copies import copied_trunk, find_originals, with_originals
from graphmodel.dialects.native.format import (
    CheckpointYaml,
    InputYaml,
    NativeSpec,
    TrunkYaml,
)
from graphmodel.dialects.native.grids import GridEdges, expand_grids
from graphmodel.dialects.native.head_format import HeadCopyYaml
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.dialects.native.mapping import MappingResolver, named_outputs, named_sources
from graphmodel.dialects.native.outputs import link_outputs, name_outputs, select_outputs
from graphmodel.dialects.native.transforms import read_transform
from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.model import (
    Checkpointing,
    Edge,
    HeadSpec,
    InputSpec,
    ModelSpec,
    TrunkSpec,
    VisslNaming,
    WeightsSpec,
)
from graphmodel.spec.recovery import LOST


def resolve(document: Document, contents: NativeSpec, report: Collector, dialect: Dialect) -> ModelSpec:
    """The spec that a native document describes.

    Args:
        document: the document, for locations.
        contents: its validated contents.
        report: where findings go.
        dialect: the dialect it was written in.

    Raises:
        CompileError: if nothing can be checked further; other findings, GM2xx, are in the spec's `errors`.
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
        self.grid_heads = expand_grids(contents.grid, list(contents.heads), self.report)
        self.inputs = self.resolve_inputs()
        is_lost = contents.mapping is None and self.document.get(("mapping",)) is not None
        mapping = self.mapping()
        in_grids = GridEdges(mapping, self.report)
        edges = [*([] if is_lost else mapping.edges()), *in_grids.edges(self.grid_heads.values())]
        self.heads |= {name: head.spec for name, head in self.grid_heads.items()}
        known = [*contents.heads, *self.grid_heads]
        self.heads = with_settings(self.heads, contents.head_settings, known, self.report)
        self.check_companions()
        named = name_outputs(edges, self.report)
        mapped = link_outputs(named, self.inputs, self.report)
        edges, outputs = select_outputs(mapped, [e.output for e in named], contents.outputs, self.report)
        if not edges and not self.report.found.errors:
            key = "outputs" if self.contents.outputs is not None else "mapping"
            self.report.error(
                "GM209", "the model has no output", (key,), "map a feature or a head to an output", key=True
            )
        found = self.report.found
        if not found.errors:
            self.note_unused(edges, mapped)
        else:  # a part that nothing reads may be one that a mistake hides: all of them are checked
            edges, found.found = mapped, found.errors
        weights = contents.weights
        trunks = self.trunks if found.errors else with_originals(_trunks(edges), self.trunks)
        heads = self.heads if found.errors else with_originals({e.head or "" for e in edges}, self.heads)
        spec = ModelSpec(
            name=contents.name,
            dialect=self.dialect.name,
            inputs=self.inputs if found.errors else self.used_inputs(edges),
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
        spec._notes = tuple(f for f in found.found if f.severity != "error")
        spec._errors = found
        return spec

    def mapping(self) -> MappingResolver:
        """What resolves the mapping."""
        contents = self.contents
        trunks = ["trunk"] if contents.trunk is not None else list(contents.trunks or {})
        written = self.document.get(("heads",))
        heads = list(contents.heads) if written is None or isinstance(written, dict) else None
        return MappingResolver(
            contents.mapping,
            self.inputs,
            trunks,
            self.heads,
            heads,
            list(self.grid_heads),
            self.dialect.any_layout,
            self.report,
        )

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
            return TrunkSpec(name=name, family=LOST, at=path)
        return TrunkSpec(
            name=name,
            family=value.name or value.module or "",
            imports=value.module is not None,
            params=dict(value.model_extra or {}),
            freeze=value.freeze,
            batchnorm=value.batchnorm or "eval",
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
            path: KeyPath = ("heads", name)
            self.report.check_name(name, "a head", path)
            if name not in links:
                heads[name] = HeadSpec(name=name, chain=resolve_chain(value, path), at=path)
        for name, chain in chains.items():
            own = copies[name]
            update = {"name": name, "copy_of": chain[-1], "freeze": own.freeze, "batchnorm": own.batchnorm or "eval"}
            update["at"] = ("heads", name)
            heads[name] = heads[chain[-1]].model_copy(update=update)
        return {name: heads[name] for name in written if name in heads}

    def resolve_inputs(self) -> dict[str, InputSpec]:
        declared = self.contents.inputs
        if declared is None:
            names = [*named_sources(self.contents.mapping), *(g.input for g in self.contents.grid.values() if g.input)]
            outputs = [*named_outputs(self.contents.mapping), *self.grid_heads]
            declared = dict.fromkeys([n for n in names if n not in outputs] or names or ["images"])
        inputs: dict[str, InputSpec] = {}
        for name, value in declared.items():
            is_written = self.document.get(("inputs",)) is not None
            path: KeyPath = ("inputs", name) if is_written else ("mapping", name)
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
                raw=value.trunk is not None,
                transform=read_transform(value.transform, (*path, "transform"), self.report),
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

    def used_inputs(self, edges: list[Edge]) -> dict[str, InputSpec]:
        names = {s.input for e in edges for s in e.sources if s.input}
        names |= {c for n in names if n in self.inputs for c in self.inputs[n].companions}
        return {n: i for n, i in self.inputs.items() if n in names}

    def note_unused(self, edges: list[Edge], mapped: list[Edge]) -> None:
        """Warns of heads, inputs and trunks that no output needs."""
        heads = with_originals({e.head or "" for e in mapped}, self.heads)
        inputs = self.used_inputs(edges)
        trunks = with_originals(_trunks(edges), self.trunks)
        for name, head in self.heads.items():
            if name not in heads:
                self.report.warning("GM210", f"no feature is mapped to the head `{name}`; it is left out", head.at)
        for name, item in self.inputs.items():
            if name not in inputs:
                self.report.warning("GM210", f"nothing reads the input `{name}`; it is left out", item.at)
        for name, trunk in self.trunks.items():
            if name not in trunks:
                self.report.warning("GM210", f"nothing reads the trunk `{name}`; it is left out", trunk.at)


def _trunks(edges: list[Edge]) -> set[str]:
    """The names of the trunks that the edges read."""
    return {s.trunk for e in edges for s in e.sources if s.trunk is not None}


def _checkpointing(value: bool | int | list[str] | CheckpointYaml) -> Checkpointing:
    if isinstance(value, CheckpointYaml):
        return value.model_dump(exclude_none=True)
    return tuple(value) if isinstance(value, list) else value
