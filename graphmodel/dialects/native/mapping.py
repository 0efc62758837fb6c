"""The mapping of a native spec as edges: which sources each output reads, in the short form and in the long one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphmodel.dialects.native.format import EdgeYaml, FeatureYaml, SourceYaml
from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.dialects.native.operations import resolve_pool, resolve_resize
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import Edge, HeadSpec, InputSpec, Source
from graphmodel.spec.recovery import LOST

Options = SourceYaml | EdgeYaml | FeatureYaml | None


def named_outputs(mapping: Any) -> list[str]:
    """The names by which sources can read outputs: each `as`, and each head."""
    found: dict[str, None] = {}

    def add(*names: Any) -> None:
        found.update((name, None) for name in names if isinstance(name, str))

    def readers(value: Any) -> None:
        if isinstance(value, FeatureYaml):
            heads = value.heads if isinstance(value.heads, list) else [value.heads]
            add(value.as_, value.head, *heads)
        elif isinstance(value, dict):
            for inner in value.values():
                readers(inner)
        else:
            add(*(value if isinstance(value, list) else [value]))

    for entry in mapping or () if isinstance(mapping, list) else ():
        add(entry.as_, entry.head)
    for features in mapping.values() if isinstance(mapping, dict) else ():
        readers(features)
    return list(found)


def named_sources(mapping: Any) -> Iterator[str]:
    """The inputs and outputs that a mapping reads."""
    if isinstance(mapping, dict):
        yield from mapping
    for edge in mapping if isinstance(mapping, list) else ():
        items = edge.from_ if isinstance(edge.from_, list) else [edge.from_]
        for item in items:
            text = item if isinstance(item, str) else item.from_
            if text != LOST:
                yield text.partition(".")[0]


@dataclass(frozen=True)
class MappingResolver:
    """Resolves a mapping.

    Attributes:
        mapping: the validated mapping; None maps every head to the trunk's default feature.
        inputs: the spec's inputs.
        trunks: the names of its trunks, those with mistakes included.
        heads: its heads.
        written_heads: the names of all heads, those with mistakes included; None if they could not be read.
        grid_heads: the names of the heads of grids, whose outputs other heads may read.
        any_layout: features are read in any layout.
        report: where findings go.
    """

    mapping: Any
    inputs: Mapping[str, InputSpec]
    trunks: Sequence[str]
    heads: Mapping[str, HeadSpec]
    written_heads: list[str] | None
    grid_heads: list[str]
    any_layout: bool
    report: LocatedReport

    def edges(self) -> list[Edge]:
        """The edges in the order of the mapping; sources that are outputs have the names that the mapping uses."""
        if self.mapping is None:
            return [] if self.grid_heads and not self.heads else self.default_edges()
        edges: list[Edge] = []
        if isinstance(self.mapping, list):
            for i, item in enumerate(self.mapping):
                edges += self.long_edge(item, ("mapping", i))
            return edges
        for name, features in self.mapping.items():
            path: KeyPath = ("mapping", name)
            if isinstance(features, dict):
                known = self.is_known(name, path, key=True)
                for feature, readers in features.items():
                    edges += self.feature_edges(f"{name}.{feature}" if known else LOST, readers, (*path, feature))
            else:
                edges += self.feature_edges(name, features, path)
        return edges

    def default_edges(self) -> list[Edge]:
        followers = {c for i in self.inputs.values() for c in i.companions}
        mains = [name for name, item in self.inputs.items() if name not in followers and not item.raw]
        if not self.trunks:
            mains = [name for name in self.inputs if name not in followers]
        if len(mains) > 1 or len(self.trunks) > 1:
            self.report.error(
                "GM208",
                f"several inputs{' or trunks' if self.trunks else ''} need a `mapping`",
                (),
                "map features to heads, for example `mapping: {images: {res5: my_head}}`",
            )
            return []
        if not mains:
            self.report.error("GM207", "the spec has no input for the trunk", ("inputs",), key=True)
            return []
        trunk = next(iter(self.trunks), None)
        at: KeyPath = ("trunk",) if trunk is not None else ("inputs", mains[0])
        source = Source(input=mains[0], trunk=trunk, any_layout=self.any_layout, at=at)
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
        return [Edge(sources=(source,), head=self.head_name(name, at), output=output, at=at) for name, at in names]

    def long_edge(self, item: EdgeYaml, path: KeyPath) -> list[Edge]:
        origins = item.from_ if isinstance(item.from_, list) else [item.from_]
        sources: list[Source] = []
        for i, origin in enumerate(origins):
            at: KeyPath = (*path, "from", i) if isinstance(item.from_, list) else (*path, "from")
            if isinstance(origin, SourceYaml):
                sources.append(self.source(origin.from_, origin, (*at, "from"), at, beside=(item, path)))
            else:
                sources.append(self.source(origin, item, at, path))
        head = self.head_name(item.head, (*path, "head"))
        keys = [origin.as_ or "" if isinstance(origin, SourceYaml) else "" for origin in origins]
        keyed = tuple(s.model_copy(update={"key": key}) for s, key in zip(sources, keys, strict=True))
        return [Edge(sources=keyed, combine=item.combine, head=head, output=item.as_ or "", at=path)]

    def head_name(self, name: str | None, path: KeyPath) -> str | None:
        if name is not None and self.written_heads is not None and name not in self.written_heads:
            self.report.error(
                "GM206", f"unknown head `{name}`", path, self.report.choices(name, self.written_heads, "heads")
            )
        return name

    @cached_property
    def outputs(self) -> dict[str, None]:
        """The names of outputs that sources may read, in the order of the mapping."""
        return dict.fromkeys([*named_outputs(self.mapping), *self.grid_heads])

    # -- sources ------------------------------------------------------------------------------------------------------

    def is_known(self, name: str, path: KeyPath, *, key: bool) -> bool:
        """Whether an input or an output has this name; reported if not."""
        outputs = self.outputs
        if name in self.inputs or name in outputs:
            return True
        what = "input or output" if outputs else "input"
        listed = "inputs and outputs" if outputs else "inputs"
        help = self.report.choices(name, list(dict.fromkeys([*self.inputs, *outputs])), listed)
        if self.trunks and not help.startswith("did you mean"):
            help = f"a feature is written with its input, such as `{next(iter(self.inputs), 'images')}.{name}`; {help}"
        self.report.error("GM207", f"unknown {what} `{name}`", path, help, key=key)
        return False

    def source(
        self,
        text: str,
        options: Options,
        path: KeyPath,
        at: KeyPath,
        *,
        key: bool = False,
        beside: tuple[EdgeYaml, KeyPath] | None = None,
    ) -> Source:
        """A source; one that is not valid is reported, and `LOST` stands for it.

        Args:
            text: what it reads.
            options: how it is prepared.
            path: where it is named.
            at: where its options are.
            key: whether it is named by a key.
            beside: the edge, whose options apply to a source that does not set them itself, and where it is.
        """
        name, _, rest = text.partition(".")
        known = text != LOST and self.is_known(name, path, key=key)
        found = self.place(name, rest, text, path, key=key) if known else None
        if found is None:
            return Source(input=LOST, trunk=None, at=path)
        if options is None:
            return found.model_copy(update={"any_layout": self.any_layout})

        def written(name: str) -> tuple[Any, KeyPath]:
            inherits = beside is not None and name not in options.model_fields_set
            holder, place = beside if beside is not None and inherits else (options, at)
            return getattr(holder, name), (*place, name)

        names = ("detach", "flatten", "normalize", "layout", "tokens", "norm")
        update: dict[str, Any] = {name: written(name)[0] for name in names}
        update["pool"] = resolve_pool(*written("pool"), self.report)
        update["resize"] = resolve_resize(*written("resize"))
        update["any_layout"] = self.any_layout or written("any_layout")[0]
        return found.model_copy(update=update)

    def place(self, name: str, rest: str, text: str, path: KeyPath, *, key: bool) -> Source | None:
        """What a source reads: another output, an input itself, or a feature of an input."""
        if name not in self.inputs:
            return Source(input="", trunk=None, output=text, at=path)
        if self.inputs[name].raw or not self.trunks:
            if not rest:
                return Source(input=name, trunk=None, at=path)
            why = f"no trunk reads `{name}`" if self.trunks else "the spec has no trunk"
            help = f"read the input itself: `from: {name}`"
            help += "" if self.trunks else ", or add for example `trunk: {name: resnet, depth: 50}`"
            self.report.error("GM205", f"`{text}` names a feature, and {why}", path, help, key=key)
            return None
        trunk = next(iter(self.trunks))
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
        return Source(input=name, trunk=trunk, feature=rest or None, at=path)
