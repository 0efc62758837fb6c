"""Makes the picture of a graph: cells folded as asked, then put into words and numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from graphmodel.graph.text import info_text
from graphmodel.graph.types import ModelGraph, Node, head_name, tensor_infos
from graphmodel.profile.parameters import Parameters
from graphmodel.visualize import cards, fold, words
from graphmodel.visualize.cells import Cell, Cells, Sharing
from graphmodel.visualize.flows import Flows
from graphmodel.visualize.ghosts import with_ghosts
from graphmodel.visualize.picture import Arrow, Box, Frame, Picture


@dataclass(frozen=True)
class Options:
    """What a picture of a graph shows.

    Attributes:
        sharing: `merge` draws a trunk once, whoever goes through it; `split` draws each pass.
        depth: 0 draws a trunk as one box, 1 its stages with equal ones in a row folded, 2 every stage, 3 every call.
        stack: equal heads on one value lie in a stack where there are so many of them; 0 never.
        ghosts: also draw the parts of trunks that no output needs.
    """

    sharing: Sharing = "merge"
    depth: int = 1
    stack: int = 4
    ghosts: bool = False


def compose(graph: ModelGraph, options: Options | None = None, flops: Mapping[str, int] | None = None) -> Picture:
    """The picture of a graph.

    Args:
        graph: before or after its passes.
        options: what to show.
        flops: of each node, by name; counted here where None.
    """
    options = options or Options()
    if flops is None:
        flops = count(graph)
    ghosts: frozenset[str] = frozenset()
    if options.ghosts:
        graph, ghosts = with_ghosts(graph)
    cells = folded(graph, options, ghosts)
    if not cells.is_acyclic():  # passes that differ inside of the trunk cannot be laid on each other
        cells = folded(graph, replace(options, sharing="split"), ghosts)
    return _Composer(graph, cells, flops).picture()


def count(graph: ModelGraph) -> dict[str, int]:
    """Floating-point operations of each call, per sample."""
    from graphmodel.profile.flops import count_flops

    return {name: round(number) for name, number in count_flops(graph).items()}


def folded(graph: ModelGraph, options: Options, ghosts: Iterable[str] = ()) -> Cells:
    """The cells of a graph, folded as the options ask."""
    cells = Cells(graph, options.sharing, ghosts)
    if not cells.is_acyclic():
        return cells
    if options.depth <= 0:
        fold.fold_whole_trunks(cells)
    elif options.depth <= 2:
        fold.fold_details(cells)
    if options.depth == 1:
        fold.fold_repeats(cells)
    if options.depth <= 2:
        fold.fold_quiet(cells)
        fold.fold_operations(cells)
    fold.stack_heads(cells, options.stack)
    return cells


class _Composer:
    def __init__(self, graph: ModelGraph, cells: Cells, flops: Mapping[str, int]) -> None:
        self.graph, self.cells, self.flops = graph, cells, flops
        self.parameters = Parameters(graph)
        self.flows = Flows(graph)

    def picture(self) -> Picture:
        order = self.cells.order
        last = len(order)
        listed = sorted(self.cells.cells.values(), key=lambda c: order[c.members[0]] if c.members else last)
        boxes = [self.box(cell) for cell in listed]
        frames = self.frames(boxes)
        hold = {f.id: f for f in frames}
        boxes = [self.inherit(b, hold) for b in boxes]
        place = {b.id: i for i, b in enumerate(boxes)}
        arrows = sorted(self.arrows(), key=lambda a: (place[a.target], place[a.source]))
        real = [n for n in self.graph.nodes.values() if n.name not in self.cells.ghosts]
        everything = self.parameters.of(real)
        counts = [f"{len(self.graph.inputs)} input{'s' * (len(self.graph.inputs) != 1)}"]
        outputs = sum(len(o.parts) for o in self.graph.outputs.values())
        counts.append(f"{outputs} output{'s' * (outputs != 1)}")
        counts.append(words.sums(everything.total, sum(self.flops.get(n.name, 0) for n in real)))
        return Picture(
            title=self.graph.spec.name,
            lines=(" · ".join(c for c in counts if c),),
            boxes=tuple(boxes),
            arrows=tuple(arrows),
            frames=tuple(frames),
            flows=self.flows.names if len(self.flows.names) > 1 else {},
            edges=tuple(self.cells.node_edges()),
        )

    # -- boxes --------------------------------------------------------------------------------------------------------

    def box(self, cell: Cell) -> Box:
        nodes = self.cells.nodes(cell)
        title, lines = self.text(cell, nodes)
        held = self.parameters.of(nodes)
        features = self.features(nodes)
        names = [c.removeprefix("output:") for c in cell.stacked] if cell.kind == "output" else []
        flops = sum(self.flops.get(n.name, 0) for n in nodes)
        return Box(
            id=cell.id,
            kind=cell.kind,
            title=title,
            lines=lines,
            parameters=held.total,
            trainable=held.trainable,
            flops=flops,
            features=features,
            badges=self.badges(nodes),
            frame=cell.frame,
            count=max(1, len(cell.stacked)),
            repeats=cell.repeats,
            ghost=cell.ghost,
            members=tuple(cell.members) or tuple(cell.stacked) or (cell.id,),
            card=cards.of_box(self.graph, cell, nodes, held, flops, names, self.parameters),
        )

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
        """Facts that hold for every module of a cell; for its operations, where it calls no module."""
        nodes = list(nodes)
        telling = [n for n in nodes if n.call == "module"] or nodes
        found = [words.badges(n.facts) for n in telling]
        return tuple(b for b in (found[0] if found else ()) if all(b in f for f in found))

    def text(self, cell: Cell, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        """The title of a cell and what stands under it."""
        if cell.kind == "input":
            return cell.id.removeprefix("input:"), _input_lines(self.graph, cell.id.removeprefix("input:"))
        if cell.kind == "output":
            stacked = [c.removeprefix("output:") for c in cell.stacked]
            return words.cut(words.names(stacked or [cell.id.removeprefix("output:")])), ()
        if cell.kind == "head" and nodes[0].component:
            return self.head_text(cell, nodes)
        if cell.kind == "stage":
            return self.stage_text(cell, nodes)
        done = [words.operation(n) for n in nodes if fold.operation_name(n) not in ("getitem", "size")]
        done = list(dict.fromkeys(done or [words.operation(n) for n in nodes]))
        return words.cut(" · ".join(done)), ()

    def head_text(self, cell: Cell, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        component = self.graph.components[nodes[0].component]
        heads = list(dict.fromkeys(head_name(n.component) for n in nodes if n.component))
        written = cards.written(self.graph.spec, component.name)
        settings = words.settings(written, component.params)
        if cell.frame:
            return words.cut(component.family), words.wrap(settings)
        return words.cut(words.names(heads)), words.wrap(" · ".join(p for p in (component.family, settings) if p))

    def stage_text(self, cell: Cell, nodes: list[Node]) -> tuple[str, tuple[str, ...]]:
        component = self.cells.trunk_of.get(nodes[0].scope, nodes[0].component)
        if not cell.frame:
            return self.trunk_text(component)
        paths = list(dict.fromkeys(str(n.target).removeprefix(f"{component}.") for n in nodes if n.call == "module"))
        if cell.repeats > 1:
            module = self.graph.module_of(next(n for n in nodes if n.call == "module"))
            return words.cut(words.run_of(paths)), words.wrap(type(module).__name__)
        telling = [n for n in nodes if fold.operation_name(n) not in fold.QUIET] or nodes
        if len(paths) == 1 and all(n.call in ("module", "attribute") for n in telling):
            module = self.graph.module_of(next(n for n in nodes if n.call == "module"))
            assert module is not None
            return words.cut(paths[0] or component), words.wrap(cards.contents_text(module))
        parts = list(dict.fromkeys(self.part(n, component) for n in telling))
        together = " · ".join(parts)
        if len(together) <= words.LONGEST:
            return together, ()
        ends = f"{parts[0]} … {parts[-1]}"
        return ends if len(ends) <= words.LONGEST else f"{words.cut(parts[0], words.LONGEST - 2)} …", words.wrap(
            together
        )

    def part(self, node: Node, component: str) -> str:
        if node.call in ("module", "attribute"):
            return str(node.target).removeprefix(f"{component}.")
        return words.operation(node)

    def trunk_text(self, component: str, scope: str = "") -> tuple[str, tuple[str, ...]]:
        made = self.graph.components[component]
        title = component.removeprefix("trunks.")
        settings = words.settings(cards.written(self.graph.spec, component), made.params)
        return title, words.wrap(" · ".join(p for p in (made.family, settings) if p))

    # -- frames -------------------------------------------------------------------------------------------------------

    def frames(self, boxes: list[Box]) -> list[Frame]:
        inside: dict[str, list[Box]] = defaultdict(list)
        for box in boxes:
            if box.frame:
                inside[box.frame].append(box)
        return [self.frame(id, held) for id, held in inside.items()]

    def frame(self, id: str, inside: list[Box]) -> Frame:
        nodes = [self.graph.nodes[m] for b in inside for m in b.members if m in self.graph.nodes and not b.ghost]
        calling = [b for b in inside if not b.ghost and any(self.graph.nodes[m].call == "module" for m in b.members)]
        shared = [b for b in (calling[0].badges if calling else ()) if all(b in c.badges for c in calling)]
        held = self.parameters.of(nodes)
        flops = sum(self.flops.get(n.name, 0) for n in nodes)
        if id.startswith("head:"):
            names = list(dict.fromkeys(head_name(n.component) for n in nodes if n.component))
            title = words.cut(words.names(names))
            card = cards.of_component(self.graph, [n.component for n in nodes], held, flops)
            return Frame(id, "head", title, (), held.total, held.trainable, flops, tuple(shared), "", card)
        component, _, scope = id.removeprefix("trunk:").partition("@")
        title, lines = self.trunk_text(component)
        if scope:
            passes = [s for s, c in self.cells.trunk_of.items() if c == component]
            title = f"{title} · {self.flows.of_scope(scope)}" if len(passes) > 1 else title
            lines = (*lines, f"weights shared by {len(passes)} passes") if len(passes) > 1 else lines
        card = cards.of_component(self.graph, [component], held, flops)
        return Frame(id, "trunk", title, lines, held.total, held.trainable, flops, tuple(shared), "", card)

    def inherit(self, box: Box, frames: Mapping[str, Frame]) -> Box:
        """A box without a module of its own looks like the frame around it."""
        frame = frames.get(box.frame)
        if frame is None or box.ghost or any(self.graph.nodes[m].call == "module" for m in box.members):
            return box
        return replace(box, badges=tuple(dict.fromkeys((*box.badges, *frame.badges))))

    # -- arrows -------------------------------------------------------------------------------------------------------

    def arrows(self) -> list[Arrow]:
        found: dict[tuple[str, str, tuple[str, ...], str], list[tuple[str, str]]] = defaultdict(list)
        for source, target in self.cells.node_edges():
            first, second = self.cells.owner[source], self.cells.owner.get(target, target)
            if first != second:
                lines = self.label(source, target)
                found[first, second, lines, self.flows.of_edge(source, target)].append((source, target))
        return [
            Arrow(
                first,
                second,
                lines,
                flow,
                ghost=self.cells.cells[first].ghost or self.cells.cells[second].ghost,
                members=tuple(members),
            )
            for (first, second, lines, flow), members in found.items()
        ]

    def label(self, source: str, target: str) -> tuple[str, ...]:
        """What stands on the arrow between two nodes."""
        node = self.graph.nodes[source]
        reader = self.graph.nodes.get(target)
        named = node.facts.features
        if named and len(self.features(self.cells.nodes(self.cells.owner[source]))) > 1:
            return ", ".join(named), info_text(node.info)  # the box alone does not say which feature this is
        if node.kind == "input" and reader is not None:
            joint = next((r for r in reader.refs() if r in self.cells.joints and source in self.cells.through(r)), None)
            if joint is not None:
                views = self.graph.nodes[joint].refs()
                return f"views {self.view_numbers(views)}", info_text(self.graph.nodes[joint].info)
            if node.call != "placeholder":
                return f"view {self.view_numbers([source])}", info_text(node.info)
        return (info_text(node.info),) if any(tensor_infos(node.info)) else ()  # a size is no shape worth a word

    def view_numbers(self, views: list[str]) -> str:
        """Which views of their input these are."""
        return words.span_of([int(self.graph.nodes[v].args[1]) for v in views])


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


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(d) for d in shape)
