"""Resolves a native document into a `ModelSpec`: binds names, expands short forms, reports all errors at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.diagnostics import Collector, choices_help
from graphmodel.dialects import Dialect
from graphmodel.dialects.native.format import (
    EdgeYaml,
    FeatureYaml,
    InputYaml,
    NativeSpec,
    SourceYaml,
    TrunkYaml,
)
from graphmodel.spec.document import Document, KeyPath, dotted, kind_of
from graphmodel.spec.model import (
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
from graphmodel.spec.names import name_problem
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
        self.document, self.contents, self.report, self.dialect = document, contents, report, dialect

    def error(self, code: str, message: str, path: KeyPath, help: str = "", *, key: bool = False) -> None:
        self.report.error(code, message, self.document.span(path, key=key), help, dotted(path))

    def run(self) -> ModelSpec:
        contents = self.contents
        self.trunks = self.resolve_trunks()
        self.heads = {name: self.resolve_head(name, value) for name, value in contents.heads.items()}
        self.inputs = self.resolve_inputs()
        edges = self.resolve_edges()
        self.check_companions()
        self.report.raise_errors()
        mapped = self.name_outputs(edges)
        edges, outputs = self.select_outputs(mapped)
        if not edges and not self.report.errors:
            key = "outputs" if self.contents.outputs is not None else "mapping"
            self.error("GM209", "the model has no output", (key,), "map a feature or a head to an output", key=True)
        self.note_unused(edges, mapped)
        self.report.raise_errors()
        weights = contents.weights
        spec = ModelSpec(
            name=contents.name,
            dialect=self.dialect.name,
            inputs=self.used_inputs(edges),
            trunks={n: t for n, t in self.trunks.items() if any(s.trunk == n for e in edges for s in e.sources)},
            heads={n: h for n, h in self.heads.items() if any(e.head == n for e in edges)},
            head_defaults=dict(contents.head_defaults),
            edges=tuple(edges),
            freeze=tuple([contents.freeze] if isinstance(contents.freeze, str) else contents.freeze),
            outputs=outputs,
            returns=contents.returns,
            checkpoint=contents.checkpoint,
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
        spec._notes = tuple(self.report.found)
        return spec

    # -- components ---------------------------------------------------------------------------------------------------

    def check_name(self, name: str, what: str, path: KeyPath) -> None:
        problem = name_problem(name, what)
        if problem is not None and not (what == "a trunk" and name == "trunk"):
            self.error("GM204", problem[0], path, problem[1], key=True)

    def resolve_trunks(self) -> dict[str, TrunkSpec]:
        if self.contents.trunk is not None:
            return {"trunk": self.resolve_trunk("trunk", self.contents.trunk, ("trunk",))}
        trunks: dict[str, TrunkSpec] = {}
        for name, value in (self.contents.trunks or {}).items():
            self.check_name(name, "a trunk", ("trunks", name))
            trunks[name] = self.resolve_trunk(name, value, ("trunks", name))
        return trunks

    def resolve_trunk(self, name: str, value: str | TrunkYaml, path: KeyPath) -> TrunkSpec:
        if isinstance(value, str):
            return TrunkSpec(name=name, family=value, at=path)
        return TrunkSpec(
            name=name,
            family=value.name or value.module or "",
            imports=value.module is not None,
            params=dict(value.model_extra or {}),
            freeze=value.freeze,
            input_type=value.input_type,
            pretrained=value.pretrained,
            at=path,
        )

    def resolve_head(self, name: str, value: Any) -> HeadSpec:
        path: KeyPath = ("heads", name)
        self.check_name(name, "a head", path)
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
            self.check_name(name, "an input", path)
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
                    self.error(
                        "GM207",
                        f"the companion `{companion}` of the input `{name}` is not another input",
                        ("inputs", name, "with", i),
                        choices_help(companion, [n for n in self.inputs if n != name], "other inputs"),
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
                self.error(
                    "GM207", f"unknown input `{name}`", path, choices_help(name, list(self.inputs), "inputs"), key=True
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
            self.error(
                "GM208",
                "several inputs or trunks need a `mapping`",
                (),
                "map features to heads, for example `mapping: {images: {res5: my_head}}`",
            )
            return []
        followers = {c for i in self.inputs.values() for c in i.companions}
        mains = [name for name in self.inputs if name not in followers]
        if not mains:
            self.error("GM207", "the spec has no input for the trunk", ("inputs",), key=True)
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
        if name is not None and name not in self.heads:
            self.error("GM206", f"unknown head `{name}`", path, choices_help(name, list(self.heads), "heads"))
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
            help = choices_help(name, list(self.inputs), "inputs")
            self.error("GM207", f"unknown input `{name}`", path, help, key=key)
            return None
        trunk = next(iter(self.trunks), "trunk")
        first, _, tail = rest.partition(".")
        # With a single trunk its name is not needed: `images.trunk` is then MobileNet's feature of that name.
        if first in self.trunks and (tail or len(self.trunks) > 1 or first != "trunk"):
            trunk, rest = first, tail
        elif len(self.trunks) > 1:
            self.error(
                "GM205",
                f"`{text}` does not name a trunk" if not first else f"unknown trunk `{first}` in `{text}`",
                path,
                choices_help(first, list(self.trunks), "with several trunks, write `input.trunk.feature`; trunks"),
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
            self.error("GM202", f"`pool` takes one operation, not {kind_of(value)}", path, "such as {avg_pool2d: 2}")
            return None
        if op not in POOLS:
            self.error(
                "GM202",
                f"unknown pooling operation `{op}`",
                (*path, op),
                choices_help(op, list(POOLS), "known"),
                key=True,
            )
            return None
        names = POOLS[op].parameters
        if not isinstance(params, Mapping):
            params = {names[0]: params} if names else {}
        for key in params:
            if key not in names:
                self.error(
                    "GM201", f"unknown key `{key}` in `{op}`", (*path, op, key), choices_help(key, names), key=True
                )
        if names and names[0] not in params:
            self.error(
                "GM203", f"missing key `{names[0]}` in `{op}`", (*path, op), f"add `{names[0]}`, such as {{{op}: 1}}"
            )
        fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
        return None if op == "identity" else PoolSpec(op=op, params=fixed, at=path)

    # -- outputs ------------------------------------------------------------------------------------------------------

    def name_outputs(self, edges: list[Edge]) -> list[Edge]:
        """Output names: `as`, or the head's (or feature's) name, made unique by input and feature."""
        several = len({s.input for e in edges for s in e.sources}) > 1
        names: list[str] = []
        for edge in edges:
            source = edge.sources[0]
            feature = (source.feature or "features").replace(".", "_")
            if edge.output:
                names.append(edge.output)
            elif edge.head is None:
                names.append(f"{source.input}_{feature}" if several else feature)
            elif sum(e.head == edge.head for e in edges) == 1:
                names.append(edge.head)
            else:
                same = [e for e in edges if e.head == edge.head and e.sources[0].input == source.input]
                names.append(
                    f"{edge.head}_{source.input}" if len(same) == 1 else f"{edge.head}_{source.input}_{feature}"
                )
        out = []
        given = {e.output for e in edges if e.output}
        used: dict[str, int] = {}
        for edge, name in zip(edges, names, strict=True):
            if edge.output:
                self.check_name(name, "an output", edge.at)
                if name in used:
                    self.error("GM209", f"two outputs are named `{name}`", edge.at, "rename one of them with `as`")
                used[name] = 1
                unique = name
            else:
                count = used.get(name, 0)
                used[name] = count + 1
                unique = name if not count and name not in given else f"{name}_{count + 1}"
            out.append(edge.model_copy(update={"output": unique}))
        return out

    def select_outputs(self, edges: list[Edge]) -> tuple[list[Edge], tuple[Any, ...]]:
        """The edges that `outputs` keeps, in the order of the mapping, and the outputs in their own order."""
        wanted = self.contents.outputs
        by_name = {e.output: e for e in edges}
        if wanted is None:
            return edges, tuple(by_name)
        chosen: list[str] = []

        def pick(item: Any, path: KeyPath) -> Any:
            if isinstance(item, list):
                return tuple(pick(child, (*path, i)) for i, child in enumerate(item))
            # `swav.prototypes0` is one tensor of a head with several, which are known only when the head is built.
            edge = by_name.get(item) or by_name.get(item.partition(".")[0])
            if edge is None or (item != edge.output and edge.head is None):
                self.error("GM209", f"unknown output `{item}`", path, choices_help(item, list(by_name), "outputs"))
            elif item in chosen or edge.output in chosen or (item in by_name and item in map(_mapped, chosen)):
                self.error("GM209", f"the output `{item}` is listed twice", path)
            else:
                chosen.append(item)
            return item

        nested = tuple(pick(item, ("outputs", i)) for i, item in enumerate(wanted))
        kept = [edge for edge in edges if edge.output in map(_mapped, chosen)]
        for edge in edges:
            if edge not in kept:
                self.report.note("GM210", f"the output `{edge.output}` is not in `outputs` and is left out", None)
        return kept, nested

    def used_inputs(self, edges: list[Edge]) -> dict[str, InputSpec]:
        names = {s.input for e in edges for s in e.sources}
        names |= {c for n in names if n in self.inputs for c in self.inputs[n].companions}
        return {n: i for n, i in self.inputs.items() if n in names}

    def note_unused(self, edges: list[Edge], mapped: list[Edge]) -> None:
        used = self.used_inputs(edges)
        for name, head in self.heads.items():
            if not any(e.head == name for e in mapped):
                self.report.warning(
                    "GM210", f"no feature is mapped to the head `{name}`; it is left out", self.document.span(head.at)
                )
        for name, item in self.inputs.items():
            if name not in used:
                self.report.warning(
                    "GM210", f"nothing reads the input `{name}`; it is left out", self.document.span(item.at)
                )
        for name, trunk in self.trunks.items():
            if not any(s.trunk == name for e in edges for s in e.sources):
                self.report.warning(
                    "GM210", f"nothing reads the trunk `{name}`; it is left out", self.document.span(trunk.at)
                )


def _mapped(output: str) -> str:
    """The output of the mapping that a name stands for: `swav` for `swav.prototypes0`."""
    return output.partition(".")[0]
