"""The differences between two model graphs, as text and as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from graphmodel.api import graph_of
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.components.registry import find_trunk
from graphmodel.graph.text import info_text
from graphmodel.graph.types import Component, ModelGraph, head_name, trunk_path
from graphmodel.passes.switches import chosen_passes
from graphmodel.profiling.parameters import Parameters
from graphmodel.spec.model import Edge, InputSpec, ModelSpec, Source

Kind = Literal["added", "removed", "changed"]
What = Literal["input", "trunk", "feature", "head", "output", "stage", "result", "total"]


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        kind: the kind of change.
        what: the kind of thing that changed.
        name: its name.
        text: the difference as a sentence.
        before: the old value, None if there was none.
        after: the new value, None if there is none.
    """

    kind: Kind
    what: What
    name: str
    text: str
    before: Any = None
    after: Any = None


@dataclass(frozen=True)
class Difference:
    """Everything that differs. Names, comments and the dialect of the specs do not count."""

    changes: tuple[Change, ...]

    @property
    def same(self) -> bool:
        return not self.changes

    def to_dict(self) -> dict[str, Any]:
        """The form that `graphmodel diff --format json` prints."""
        return {"same": self.same, "changes": [asdict(c) for c in self.changes]}

    def __str__(self) -> str:
        if self.same:
            return "no difference"
        marks = {"added": "+", "removed": "−", "changed": "~"}
        return "\n".join(f"{marks[c.kind]} {c.text}" for c in self.changes)


def diff(before: Any, after: Any, *, allow_imports: bool = False) -> Difference:
    """What differs between two models: inputs, trunks, features, heads, outputs, shapes, parameters.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> print(graphmodel.diff(spec, {**spec, "returns": "tuple"}))
        ~ the result is a tuple, it was a dict

    Args:
        before: a spec in any form that `load_spec` takes, a graph, or a compiled module.
        after: the other one.
        allow_imports: whether a spec may name Python code to import.

    Raises:
        CompileError: what is wrong with a spec.
    """
    graphs = (graph_of(source, allow_imports=allow_imports) for source in (before, after))
    return Difference(tuple(_Comparer(*graphs).changes()))


class _Side:
    """One graph with what it says, resolved."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.spec: ModelSpec = resolved_spec(graph)
        self.trunks = {n: graph.components[trunk_path(self.spec, n)] for n in self.spec.trunks}
        self.trunk_of = {n.scope: n.component for n in graph.nodes.values() if n.scope and n.component}
        self.inputs_of = _inputs(graph)
        self.parameters = Parameters(graph)

    def features(self) -> dict[str, str]:
        """The shape of each feature that is read, by `input.feature`, or `input.trunk.feature` with several trunks."""
        found: dict[str, list[str]] = {}
        for node in self.graph.nodes.values():
            for feature in node.facts.features:
                trunk = self.trunk_of[node.scope].removeprefix("trunks.").removeprefix("trunk")
                inputs = "+".join(self.inputs_of[node.name])
                found.setdefault(".".join(p for p in (inputs, trunk, feature) if p), []).append(info_text(node.info))
        return {name: ", ".join(shapes) for name, shapes in found.items()}

    def heads(self) -> dict[str, list[Component]]:
        found: dict[str, list[Component]] = {}
        for name, component in self.graph.components.items():
            if component.kind == "head":
                found.setdefault(head_name(name), []).append(component)
        return found

    def outputs(self) -> dict[str, str]:
        parts = {key: node for output in self.graph.outputs.values() for key, node in output.parts.items()}
        return {key: info_text(self.graph.nodes[node].info) for key, node in parts.items()}

    def routes(self) -> dict[str, str]:
        """A description of each output."""
        return {edge.output: self.route(edge) for edge in self.spec.edges}

    def route(self, edge: Edge) -> str:
        text = f" {edge.combine} ".join(self.source(s) for s in edge.sources)
        return f"{text} → {edge.head}" if edge.head else text

    def source(self, source: Source) -> str:
        trunk = self.trunks.get(source.trunk or "")
        name = source.feature or ""
        family = find_trunk(trunk.family) if trunk is not None and not trunk.given else None
        if family is not None and trunk is not None:
            known = family.find(name, trunk.params, trunk.meta)
            name = known.name if known is not None else name  # an alias is the feature that it names
        several = source.trunk if len(self.spec.trunks) > 1 else ""
        text = ".".join(p for p in (source.output or source.input, several, name) if p)
        rest = source.model_dump(exclude={"input", "output", "trunk", "feature", "at"}, exclude_defaults=True)
        return " ".join([text, *(f"{key}={_plain(value)}" for key, value in sorted(rest.items()))])

    def stages(self, trunk: str) -> dict[tuple[str, str], str]:
        """The output shape of each call of a trunk, by its inputs and its target."""
        component = self.trunks[trunk].name
        found: dict[tuple[str, str], str] = {}
        for node in self.graph.nodes.values():
            if node.kind == "trunk" and node.call == "module" and self.trunk_of.get(node.scope) == component:
                place = node.path or component
                key = (node.scope.removesuffix(f"_{trunk}"), place)
                found[key] = f"{found[key]}, {info_text(node.info)}" if key in found else info_text(node.info)
        return found

    def segments(self) -> dict[str, tuple[str, ...]]:
        """The checkpoint segments of each trunk that has any: the first and last module of each."""
        found: dict[str, dict[tuple[str, int], list[str]]] = {}
        for node in self.graph.nodes.values():
            if node.facts.checkpoint and node.call == "module":
                segments = found.setdefault(self.trunk_of[node.scope], {})
                segments.setdefault((node.scope, node.facts.checkpoint), []).append(node.path)
        return {
            trunk: tuple(dict.fromkeys(" … ".join(dict.fromkeys((s[0], s[-1]))) for s in segments.values()))
            for trunk, segments in found.items()
        }

    def held(self, components: Iterable[Component]) -> tuple[int, int]:
        """The number of parameters that the calls of some components use, and how many are trained."""
        names = {c.name for c in components}
        held = self.parameters.of(n for n in self.graph.nodes.values() if n.component in names)
        return held.total, held.trainable


class _Comparer:
    def __init__(self, before: ModelGraph, after: ModelGraph) -> None:
        self.before, self.after = _Side(before), _Side(after)

    def changes(self) -> Iterator[Change]:
        one, other = self.before, self.after
        yield from self.inputs()
        yield from _named("trunk", one.trunks, other.trunks, self.trunk, lambda c: c.family)
        yield from _named("feature", one.features(), other.features(), _shape("feature"), str)
        yield from _named("head", one.heads(), other.heads(), self.head, lambda h: " → ".join(c.family for c in h))
        yield from _named("output", one.outputs(), other.outputs(), _shape("output"), str)
        routes = one.routes(), other.routes()
        for name in routes[0]:
            if name in routes[1] and routes[0][name] != routes[1][name]:
                text = f"output `{name}` is {routes[1][name]}, it was {routes[0][name]}"
                yield Change("changed", "output", name, text, routes[0][name], routes[1][name])
        yield from self.result()
        yield from self.totals()

    def inputs(self) -> Iterator[Change]:
        one, other = self.before.spec.inputs, self.after.spec.inputs
        yield from _named("input", one, other, self.input, _input_text)
        yield from _order("input", list(one), list(other))

    def input(self, name: str, one: InputSpec, other: InputSpec) -> Iterator[Change]:
        if _input_text(one) != _input_text(other):
            text = f"input `{name}`: {_input_text(one)} became {_input_text(other)}"
            yield Change("changed", "input", name, text, _input_text(one), _input_text(other))
        yield from _fields("input", name, f"input `{name}`", _part(one), _part(other))

    def trunk(self, name: str, one: Component, other: Component) -> Iterator[Change]:
        label = "trunk" if name == "trunk" else f"trunk `{name}`"
        specs = self.before.spec.trunks[name], self.after.spec.trunks[name]
        if one.family != other.family:
            yield Change(
                "changed", "trunk", name, f"{label}: {one.family} became {other.family}", one.family, other.family
            )
        else:
            yield from _fields("trunk", name, label, _params(one), _params(other))
            yield from self.stages(name, label)
        names = ("input_type", "memory_format", "pretrained", "copy_of", "batchnorm")
        fields = [{key: getattr(s, key) for key in names} for s in specs]
        yield from _fields("trunk", name, label, *fields)
        yield from self.counts("trunk", name, label, [one], [other])

    def stages(self, name: str, label: str) -> Iterator[Change]:
        one, other = self.before.stages(name), self.after.stages(name)
        gone = _unique(place for scope, place in one if not any(place == p for _, p in other))
        new = _unique(place for scope, place in other if not any(place == p for _, p in one))
        if gone:
            yield Change("removed", "stage", name, f"{label} no longer runs {_some(gone)}", gone, None)
        if new:
            yield Change("added", "stage", name, f"{label} also runs {_some(new)}", None, new)
        for scope in _unique(s for s, _ in one if any(s == t for t, _ in other)):
            moved = [
                (p, one[s, p], other[s, p]) for s, p in one if s == scope and other.get((s, p), one[s, p]) != one[s, p]
            ]
            if moved:
                shown = _some([f"{p} {a} became {b}" for p, a, b in moved], quote=False)
                text = f"{label} on `{scope}`: other shapes in {len(moved)} stages: {shown}"
                before, after = ({m[0]: m[i] for m in moved} for i in (1, 2))
                yield Change("changed", "stage", f"{name}.{scope}", text, before, after)

    def head(self, name: str, one: list[Component], other: list[Component]) -> Iterator[Change]:
        label = f"head `{name}`"
        families = [c.family for c in one], [c.family for c in other]
        if families[0] != families[1]:
            was, now = (" → ".join(f) for f in families)
            yield Change("changed", "head", name, f"{label}: {was} became {now}", *families)
        else:
            for i, (first, second) in enumerate(zip(one, other, strict=True)):
                place = f"{label}, {first.family}" if len(one) == 1 else f"{label}, module {i} ({first.family})"
                yield from _fields("head", name, place, _params(first), _params(second))
        heads = (side.spec.heads[name] for side in (self.before, self.after))
        copies = ({"copy_of": head.copy_of, "batchnorm": head.batchnorm} for head in heads)
        yield from _fields("head", name, label, *copies)
        yield from self.counts("head", name, label, one, other)

    def counts(
        self, what: What, name: str, label: str, one: Sequence[Component], other: Sequence[Component]
    ) -> Iterator[Change]:
        """Parameters of a component and whether they are trained."""
        was, now = self.before.held(one), self.after.held(other)
        if was[0] != now[0]:
            text = f"{label}: {was[0]:,} parameters became {now[0]:,} ({now[0] - was[0]:+,})"
            yield Change("changed", what, name, text, was[0], now[0])
        trains = [("all" if t == n else "none" if not t else "some") if n else "none" for n, t in (was, now)]
        if trains[0] != trains[1] or (was[0] == now[0] and was[1] != now[1]):
            text = f"{label}: {now[1]:,} of its parameters train, {was[1]:,} did"
            yield Change("changed", what, name, text, was[1], now[1])

    def result(self) -> Iterator[Change]:
        one, other = self.before.spec, self.after.spec
        if one.returns != other.returns:
            text = f"the result is a {other.returns}, it was a {one.returns}"
            yield Change("changed", "result", "returns", text, one.returns, other.returns)
        first, second = _flat(self.before.graph.structure), _flat(self.after.graph.structure)
        yield from _order("output", first, second)
        if first == second and self.before.graph.structure != self.after.graph.structure:
            text = "the outputs are nested differently"
            yield Change("changed", "result", "outputs", text, self.before.graph.structure, self.after.graph.structure)
        segments = self.before.segments(), self.after.segments()
        if segments[0] != segments[1]:
            counts = [{trunk: len(names) for trunk, names in side.items()} for side in segments]
            shown = list(map(_segments, counts if counts[0] != counts[1] else segments))
            text = f"activation checkpointing: {shown[1]}, it was {shown[0]}"
            yield Change("changed", "result", "checkpoint", text, *segments)
        switches = chosen_passes(one), chosen_passes(other)
        if switches[0] != switches[1]:
            text = f"optimization passes: {_some_or_none(switches[1])}, they were {_some_or_none(switches[0])}"
            yield Change("changed", "result", "optimize", text, *switches)

    def totals(self) -> Iterator[Change]:
        was, now = (side.held(side.graph.components.values()) for side in (self.before, self.after))
        for i, name in enumerate(("parameters", "trainable parameters")):
            if was[i] != now[i]:
                text = f"{name} in all: {was[i]:,} became {now[i]:,} ({now[i] - was[i]:+,})"
                yield Change("changed", "total", name, text, was[i], now[i])


def _named(
    what: What,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    compare: Callable[[str, Any, Any], Iterable[Change]],
    text: Callable[[Any], str],
) -> Iterator[Change]:
    """Things by name: removed ones, those in both, and new ones."""
    for name, value in one.items():
        if name in other:
            yield from compare(name, value, other[name])
        else:
            yield Change("removed", what, name, f"{what} `{name}` ({text(value)}) is gone", text(value), None)
    for name, value in other.items():
        if name not in one:
            yield Change("added", what, name, f"{what} `{name}` ({text(value)}) is new", None, text(value))


def _segments(by_trunk: Mapping[str, int] | Mapping[str, tuple[str, ...]]) -> str:
    parts = []
    for trunk, found in by_trunk.items():
        text = f"{found} segment{'s' * (found > 1)}" if isinstance(found, int) else _some(found, quote=False)
        parts.append(text + f" of `{trunk}`" * (len(by_trunk) > 1))
    return ", ".join(parts) or "none"


def _some_or_none(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _shape(what: What) -> Callable[[str, str, str], Iterator[Change]]:
    def compare(name: str, one: str, other: str) -> Iterator[Change]:
        if one != other:
            yield Change("changed", what, name, f"{what} `{name}`: {one} became {other}", one, other)

    return compare


def _fields(what: What, name: str, label: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    for key in _unique([*one, *other]):
        if one.get(key) != other.get(key):
            text = f"{label}: {key} {_plain(one.get(key))} became {_plain(other.get(key))}"
            yield Change("changed", what, name, text, one.get(key), other.get(key))


def _order(what: What, one: list[str], other: list[str]) -> Iterator[Change]:
    if one != other and sorted(one) == sorted(other):
        text = f"the {what}s come in another order: {', '.join(other)}; it was {', '.join(one)}"
        yield Change("changed", what, "order", text, one, other)


def _params(component: Component) -> dict[str, Any]:
    params = component.params
    return dict(params.model_dump(mode="json")) if hasattr(params, "model_dump") else {}


def _part(item: InputSpec) -> dict[str, Any]:
    """The attributes of an input besides its shape."""
    grouping = {"grouping": item.grouping} if item.views is not None else {}
    return {"dtype": item.dtype, "companions": list(item.companions), "raw": item.raw, **grouping}


def _input_text(item: InputSpec) -> str:
    def size(shape: Sequence[int]) -> str:
        return "×".join(str(d) for d in shape)

    if item.views is None:
        return size(item.shape or ())
    views = list(item.views)
    parts: list[str] = []
    while views:
        run = next((i for i, v in enumerate(views) if v != views[0]), len(views))
        parts.append(f"{run} × {size(views[0])}")
        views = views[run:]
    return f"views {', '.join(parts)}"


def _inputs(graph: ModelGraph) -> dict[str, tuple[str, ...]]:
    """For each node, the inputs that it depends on, in order."""
    found: dict[str, dict[str, None]] = {}
    for name, node in graph.nodes.items():
        found[name] = {name: None} if node.call == "placeholder" else {}
        for source in node.refs():
            found[name] |= found[source]
    return {name: tuple(inputs) for name, inputs in found.items()}


def _flat(structure: Any) -> list[str]:
    return [name for item in structure for name in (_flat(item) if isinstance(item, tuple) else [item])]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _some(names: Sequence[str], quote: bool = True) -> str:
    shown = [f"`{n}`" if quote else n for n in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v not in ({}, None))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_plain(v) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "nothing"}[value]
    return str(value)
