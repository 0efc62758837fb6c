"""Composes the picture of a graph: a box for each group of calls, frames around them, arrows between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.text import info_text, target_text
from graphmodel.graph.types import ModelGraph, Node, head_name, path_inside, tensor_infos
from graphmodel.profiling.flops import count_flops, rows_text
from graphmodel.profiling.parameters import Parameters, joined, total
from graphmodel.spec.grids import axes_text, grid_of
from graphmodel.spec.model import ModelSpec
from graphmodel.spec.names import LOCKED_SPEC
from graphmodel.visualize import cards, labels
from graphmodel.visualize.flows import Flows
from graphmodel.visualize.ghosts import with_ghosts
from graphmodel.visualize.group import QUIET, Group, Grouping, fold_details, fold_quiet, grouped, operation_name
from graphmodel.visualize.inside import SEPARATOR, with_layers
from graphmodel.visualize.optimizations import Optimizations, optimizations_of
from graphmodel.visualize.picture import Arrow, Box, Frame, FrameKind, Options, Picture

LAYERS = 3
"""From this depth, stages are opened into layers."""


def compose(
    graph: ModelGraph,
    options: Options | None = None,
    flops: Mapping[str, int] | None = None,
    optimizations: Optimizations | None = None,
) -> Picture:
    """The picture of a graph.

    Args:
        graph: before or after its passes.
        options: what to show.
        flops: of each node, by name; counted here if None.
        optimizations: what they do to the graph; found here, by the switches of its spec, if None.
    """
    options = options or Options()
    stages: dict[str, str] = {}
    layered = graph
    if options.depth >= LAYERS:
        layered, stages = with_layers(graph)
    if flops is None or (flops and stages):
        flops = count_flops(layered)
    done = optimizations_of(graph) if optimizations is None else optimizations
    graph = layered
    ghosts: frozenset[str] = frozenset()
    if options.ghosts and options.depth > 0:
        graph, ghosts = with_ghosts(graph)
    return _Composer(graph, grouped(graph, options, ghosts, stages), flops, done).picture()


def compose_inside(graph: ModelGraph) -> Picture:
    """The picture of what a block does, with a box for each of its children and layers.

    Args:
        graph: as `graph_inside` makes it.
    """
    grouping = Grouping(graph, "merge")
    fold_details(grouping, layers=False)
    fold_quiet(grouping)
    return _Composer(graph, grouping, {}, Optimizations()).picture()


def title_of(spec: ModelSpec) -> str:
    """The name of a model; a spec without one is named after its file."""
    file = Path(spec.origin.base)
    unnamed = spec.name == type(spec).model_fields["name"].default
    is_file = file.stem and file.name != LOCKED_SPEC and not file.name.startswith("<")
    return file.stem if unnamed and is_file else spec.name


class _Composer:
    def __init__(self, graph: ModelGraph, grouping: Grouping, flops: Mapping[str, int], done: Optimizations) -> None:
        self.graph, self.grouping, self.flops, self.done = graph, grouping, flops, done
        self.parameters = Parameters(graph)
        self.flows = Flows(graph)
        self.stage_frames = {g.frame for g in grouping.groups.values() if g.frame.startswith("stage:")}

    def picture(self) -> Picture:
        order = self.grouping.order
        last = len(order)
        listed = sorted(self.grouping.groups.values(), key=lambda c: order[c.members[0]] if c.members else last)
        boxes = self.marked_as_shared([self.box(group) for group in listed])
        frames = self.frames(boxes)
        hold = {f.id: f for f in frames}
        boxes = [self.inherit(b, hold) for b in boxes]
        place = {b.id: i for i, b in enumerate(boxes)}
        arrows = sorted(self.arrows(), key=lambda a: (place[a.target], place[a.source]))
        real = [n for n in self.graph.nodes.values() if n.name not in self.grouping.ghosts]
        outputs = sum(len(o.parts) for o in self.graph.outputs.values())
        counts = [_plural(len(self.graph.inputs), "input"), _plural(outputs, "output")]
        flops = sum(self.flops.get(n.name, 0) for n in real)
        counts.append(labels.totals(self.parameters.of(real).total, flops))
        counts[-1] += f" at {rows_text(rows_per_sample(self.graph))}" if flops else ""
        summary = (*self.graph.summary, *self.done.lines)
        return Picture(
            title=title_of(self.graph.spec),
            lines=(" · ".join(c for c in counts if c), *(labels.cut(text, 110) for text in summary)),
            boxes=tuple(boxes),
            arrows=tuple(arrows),
            frames=tuple(frames),
            flows=self.flows.names if len(self.flows.names) > 1 else {},
            edges=tuple(self.grouping.node_edges()),
        )

    # -- boxes --------------------------------------------------------------------------------------------------------

    def box(self, group: Group) -> Box:
        nodes = self.grouping.nodes(group)
        title, lines = self.text(group, nodes)
        parameters = self.parameters.of(nodes)
        features = self.features(nodes)
        names = [c.removeprefix("output:") for c in group.stacked] if group.kind == "output" else []
        flops = sum(self.flops.get(n.name, 0) for n in nodes)
        return Box(
            id=group.id,
            kind=group.kind,
            title=title,
            lines=lines,
            parameters=parameters.total,
            trainable=parameters.trainable,
            flops=flops,
            features=features,
            badges=self.badges(nodes),
            frame=group.frame,
            count=max(1, len(group.stacked)),
            repeats=group.repeats,
            ghost=group.ghost,
            members=tuple(group.members) or tuple(group.stacked) or (group.id,),
            card=cards.of_box(self.graph, group, nodes, parameters, flops, names),
        )

    def marked_as_shared(self, boxes: Iterable[Box]) -> list[Box]:
        """The boxes; if two in one frame call the same module, both are marked and the first counts its parameters."""
        calling: Counter[tuple[str, int]] = Counter()
        used = {}
        for box in boxes:
            used[box.id] = joined(
                self.parameters.used_by(self.graph.nodes[m]) for m in box.members if m in self.graph.nodes
            )
            calling.update((box.frame, key) for key in used[box.id])
        counted: set[tuple[str, int]] = set()
        found = []
        for box in boxes:
            sizes, keys = used[box.id], {(box.frame, key) for key in used[box.id]}
            if any(calling[key] > 1 for key in keys):
                rest = total({key: size for key, size in sizes.items() if (box.frame, key) not in counted})
                badges = (*box.badges, "shared") if all(calling[key] > 1 for key in keys) else box.badges
                box = replace(box, parameters=rest.total, trainable=rest.trainable, badges=badges)
            counted |= keys
            found.append(box)
        return found

    def features(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """Names of the features among some calls, in the order of the trunk, whichever pass they belong to."""
        place: Counter[str] = Counter()
        found: dict[str, int] = {}
        for node in nodes:
            place[node.scope] += 1
            for feature in node.facts.features:
                found.setdefault(feature, place[node.scope])
        return tuple(sorted(found, key=found.__getitem__))

    def badges(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """Facts that all modules of a group share, or all its operations if it calls no module."""
        nodes = list(nodes)
        telling = [n for n in nodes if n.call == "module"] or nodes
        found = [(*labels.badges(n.facts), *self.done.badges.get(n.name.partition(SEPARATOR)[0], ())) for n in telling]
        return tuple(b for b in (found[0] if found else ()) if all(b in f for f in found))

    def text(self, group: Group, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        """The title of a group and the lines below it."""
        if group.kind == "input":
            return group.id.removeprefix("input:"), _input_lines(self.graph, group.id.removeprefix("input:"))
        if group.kind == "output":
            stacked = [c.removeprefix("output:") for c in group.stacked]
            return labels.cut(labels.names(stacked or [group.id.removeprefix("output:")])), ()
        if group.kind == "head" and nodes[0].component:
            return self.head_text(group, nodes)
        if group.kind == "stage":
            return self.stage_text(group, nodes)
        done = [_operation(n) for n in nodes if operation_name(n) not in ("getitem", "size")]
        done = list(dict.fromkeys(done or [_operation(n) for n in nodes]))
        return labels.cut(" · ".join(done)), ()

    def head_text(self, group: Group, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        component = self.graph.components[nodes[0].component]
        heads = list(dict.fromkeys(head_name(n.component) for n in nodes if n.component))
        written = cards.written(self.graph.spec, component.name)
        settings = labels.settings(written, component.params)
        grid = grid_of(self.graph.spec, heads)
        if grid and not group.frame:
            return labels.cut(grid), labels.wrap(f"{component.family} · {axes_text(self.graph.spec, heads)}")
        if group.frame:
            return labels.cut(component.family), labels.wrap(settings)
        about = [f"copy of {head_name(component.copy_of)}"] if component.copy_of else [component.family, settings]
        return labels.cut(labels.names(heads)), labels.wrap(" · ".join(p for p in about if p))

    def stage_text(self, group: Group, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        component = self.grouping.trunk_of.get(nodes[0].scope, nodes[0].component)
        if not group.frame:
            return self.trunk_text(component)
        component = (
            group.frame.removeprefix("stage:").partition("@")[0] if group.frame in self.stage_frames else component
        )
        paths = list(dict.fromkeys(str(n.target).removeprefix(f"{component}.") for n in nodes if n.call == "module"))
        if group.repeats > 1:
            module = self.graph.module_of(next(n for n in nodes if n.call == "module"))
            return labels.cut(labels.run_of(paths)), labels.wrap(type(module).__name__)
        telling = [n for n in nodes if operation_name(n) not in QUIET] or nodes
        if len(paths) == 1 and all(n.call in ("module", "attribute") for n in telling):
            module = self.graph.module_of(next(n for n in nodes if n.call == "module"))
            assert module is not None
            return labels.cut(paths[0] or component), labels.wrap(cards.contents_text(module))
        parts = list(dict.fromkeys(self.part(n, component) for n in telling))
        together = " · ".join(parts)
        if len(together) <= labels.LONGEST:
            return together, ()
        title = f"{parts[0]} … {parts[-1]}"
        if len(title) > labels.LONGEST:
            title = f"{labels.cut(parts[0], labels.LONGEST - 2)} …"
        return title, labels.wrap(together)

    def part(self, node: Node, component: str) -> str:
        if node.call in ("module", "attribute"):
            return str(node.target).removeprefix(f"{component}.")
        return _operation(node)

    def trunk_text(self, component: str) -> tuple[str, tuple[str, ...]]:
        trunk = self.graph.components[component]
        title = component.removeprefix("trunks.")
        settings = labels.settings(cards.written(self.graph.spec, component), trunk.params)
        about = [f"copy of {trunk.copy_of.removeprefix('trunks.')}"] if trunk.copy_of else [trunk.family, settings]
        return title, labels.wrap(" · ".join(p for p in about if p))

    # -- frames -------------------------------------------------------------------------------------------------------

    def frames(self, boxes: list[Box]) -> list[Frame]:
        inside: dict[str, list[Box]] = defaultdict(list)
        for box in boxes:
            if box.frame:
                if parent := self.parent(box):
                    inside[parent].append(box)
                inside[box.frame].append(box)
        made = [self.frame(id, boxes) for id, boxes in inside.items()]
        badges = {f.id: f.badges for f in made}
        return [replace(f, badges=tuple(b for b in f.badges if b not in badges.get(f.parent, ()))) for f in made]

    def parent(self, box: Box) -> str:
        """The frame around that of a box: a stage that is opened into layers lies in its trunk."""
        if not box.frame.startswith("stage:"):
            return ""
        node = next(self.graph.nodes[m] for m in box.members if m in self.graph.nodes)
        _, at, place = box.frame.partition("@")
        return f"trunk:{self.grouping.trunk_of.get(node.scope, node.component)}{at}{place}"

    def frame(self, id: str, inside: list[Box]) -> Frame:
        nodes = [self.graph.nodes[m] for b in inside for m in b.members if m in self.graph.nodes and not b.ghost]
        calling = [b for b in inside if not b.ghost and any(self.graph.nodes[m].call == "module" for m in b.members)]
        shared = [b for b in (calling[0].badges if calling else ()) if all(b in c.badges for c in calling)]
        parameters = self.parameters.of(nodes)
        flops = sum(self.flops.get(n.name, 0) for n in nodes)
        if id.startswith("head:"):
            names = list(dict.fromkeys(head_name(n.component) for n in nodes if n.component))
            title = labels.cut(grid_of(self.graph.spec, names) or labels.names(names))
            lines: tuple[str, ...] = ()
            components = [n.component for n in nodes]
        elif id.startswith("stage:"):
            title, lines = self.opened_stage(id.removeprefix("stage:").partition("@")[0], nodes)
            components = []
        else:
            component, _, scope = id.removeprefix("trunk:").partition("@")
            title, lines = self.trunk_text(component)
            components = [component]
            passes = [s for s, c in self.grouping.trunk_of.items() if c == component]
            if scope and len(passes) > 1:
                title = f"{title} · {self.flows.of_scope(scope)}"
                lines = (*lines, f"weights shared by {len(passes)} passes")
        return Frame(
            id,
            _frame_kind(id),
            title,
            lines,
            parameters.total,
            parameters.trainable,
            flops,
            tuple(shared),
            parent=self.parent(inside[0]) if id.startswith("stage:") else "",
            card=cards.of_component(self.graph, components, parameters, flops),
        )

    def opened_stage(self, path: str, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        """The title of a stage that is opened into layers, and the line below it."""
        component = self.grouping.trunk_of.get(nodes[0].scope, nodes[0].component)
        inner = path_inside(path, component)
        module = self.graph.components[component].meta.get_submodule(inner)
        return labels.cut(inner), (cards.contents_text(module),)

    def inherit(self, box: Box, frames: Mapping[str, Frame]) -> Box:
        """A box that calls no module shows the badges of the frame around it."""
        frame = frames.get(box.frame)
        if frame is None or box.ghost or any(self.graph.nodes[m].call == "module" for m in box.members):
            return box
        return replace(box, badges=tuple(dict.fromkeys((*box.badges, *frame.badges))))

    # -- arrows -------------------------------------------------------------------------------------------------------

    def arrows(self) -> list[Arrow]:
        found: dict[tuple[str, str, tuple[str, ...], str], list[tuple[str, str]]] = defaultdict(list)
        for source, target in self.grouping.node_edges():
            first, second = self.grouping.owner[source], self.grouping.owner.get(target, target)
            if first != second:
                lines = self.label(source, target)
                found[first, second, lines, self.flows.of_edge(source, target)].append((source, target))
        return [
            Arrow(
                first,
                second,
                lines,
                flow,
                ghost=self.grouping.groups[first].ghost or self.grouping.groups[second].ghost,
                members=tuple(members),
            )
            for (first, second, lines, flow), members in found.items()
        ]

    def label(self, source: str, target: str) -> tuple[str, ...]:
        """The label of the arrow between two nodes."""
        node = self.graph.nodes[source]
        reader = self.graph.nodes.get(target)
        named = node.facts.features
        if named and len(self.features(self.grouping.nodes(self.grouping.owner[source]))) > 1:
            return ", ".join(named), info_text(node.info)  # the box alone does not say which feature this is
        if node.kind == "input" and reader is not None:
            joins = (self.graph.nodes[r] for r in reader.refs() if r in self.grouping.view_joins)
            join = next((j for j in joins if source in j.refs()), None)
            if join is not None:
                return f"views {self.view_numbers(join.refs())}", info_text(join.info)
            if node.call != "placeholder":
                return f"view {self.view_numbers([source])}", info_text(node.info)
        return (info_text(node.info),) if any(tensor_infos(node.info)) else ()  # a size has no shape

    def view_numbers(self, views: Sequence[str]) -> str:
        """The numbers of some views of an input."""
        return labels.span_of([int(self.graph.nodes[v].args[1]) for v in views])


def _input_lines(graph: ModelGraph, name: str) -> tuple[str, ...]:
    """The shapes of an input, views of one shape counted."""
    item = graph.inputs[name]
    dtype = "" if item.dtype == "float32" else f" {item.dtype}"
    if item.views is None:
        return (f"{_shape(item.shape or ())}{dtype}",)
    lines: list[list[int | tuple[int, ...]]] = []
    for view in item.views:
        if lines and lines[-1][1] == view:
            lines[-1][0] += 1  # type: ignore[operator]
        else:
            lines.append([1, view])
    shown = [f"{n} view{'s' * (n != 1)} of {_shape(v)}{dtype}" for n, v in lines]  # type: ignore[arg-type]
    return tuple(shown if len(shown) <= 6 else [*shown[:5], f"… {len(shown) - 5} more"])


def _frame_kind(id: str) -> FrameKind:
    return "head" if id.startswith("head:") else "stage" if id.startswith("stage:") else "trunk"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(str(d) for d in shape)


def _operation(node: Node) -> str:
    """A function or method in short: `flatten`, `avg_pool2d 10×10`; without its module."""
    name = target_text(node.target).rsplit(".", 1)[-1]
    sizes = [v for k, v in node.kwargs.items() if k in ("output_size", "kernel_size")]
    if not sizes:
        return name
    return f"{name} {_shape(sizes[0] if isinstance(sizes[0], (list, tuple)) else (sizes[0], sizes[0]))}"
