"""Finds the stages of trunks, and opens those that are `nn.Sequential`, for passes that treat stages one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from torch import nn

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.graph.types import ModelGraph, Node, Ref
from graphmodel.passes.freeze import with_frozen_facts
from graphmodel.passes.on_meta import results_on_meta


def trunk_passes(graph: ModelGraph) -> Iterator[tuple[str, list[Node]]]:
    """The trunk and the calls of each pass of an input through a trunk, in order."""
    passes: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.kind == "trunk":
            passes.setdefault(node.scope, []).append(node)
    for calls in passes.values():
        component = next((node.component for node in calls if node.component), "")
        if component:
            yield component, calls


def opened(graph: ModelGraph, targets: Collection[str]) -> ModelGraph:
    """The graph with the parts of these `nn.Sequential` modules called one by one."""
    nodes: list[Node] = []
    for node in graph.nodes.values():
        nodes += _parts(graph, node) if node.target in targets and can_open(graph, node) else [node]
    return graph.replace_nodes(nodes) if len(nodes) > len(graph.nodes) else graph


def opened_again(given: ModelGraph, wide: ModelGraph, names: Collection[str]) -> ModelGraph:
    """The graph with no more stages opened than those that calls of these names are parts of.

    Args:
        given: the graph before any was opened.
        wide: the graph with stages opened.
        names: calls of it.
    """
    wanted = {str(wide.nodes[name].target) for name in names if wide.nodes[name].call == "module"}
    graph = given
    while True:
        holders = {
            str(node.target)
            for node in graph.nodes.values()
            if any(target.startswith(f"{node.target}.") for target in wanted)
        }
        wider = opened(graph, holders)
        if wider is graph:
            return graph
        graph = wider


def can_open(graph: ModelGraph, node: Node) -> bool:
    """Whether a call is one of an `nn.Sequential` whose parts can be called one by one."""
    plain = len(node.args) == 1 and not node.kwargs and not node.facts.of_order()
    return plain and type(graph.module_of(node)) is nn.Sequential


def only_sequentials(graph: ModelGraph) -> set[str]:
    """The paths of stages that are the only `nn.Sequential` of their trunk, such as the blocks of a ViT."""
    targets = set()
    for _, calls in trunk_passes(graph):
        stages = [graph.nodes[name] for name in stages_of(graph, calls)]
        sequential = [node for node in stages if type(graph.module_of(node)) is nn.Sequential]
        if len(sequential) == 1:
            targets.add(str(sequential[0].target))
    return targets


def sequentials(graph: ModelGraph) -> set[str]:
    """The paths of stages that are an `nn.Sequential` of several blocks, modules with parts of their own."""
    targets = set()
    for _, calls in trunk_passes(graph):
        for name in stages_of(graph, calls):
            module = graph.module_of(graph.nodes[name])
            blocks = [part for part in module.children() if _has_parts(part)] if module is not None else []
            if len(blocks) > 1 and can_open(graph, graph.nodes[name]):
                targets.add(str(graph.nodes[name].target))
    return targets


def _has_parts(module: nn.Module) -> bool:
    return len(list(module.modules())) > 2


def _parts(graph: ModelGraph, node: Node) -> list[Node]:
    """The calls of the parts of a sequential module; the last one takes over its name and the facts of its value."""
    module = graph.module_of(node)
    assert module is not None
    infos = results_on_meta(graph, node, list(module.children()))
    made: list[Node] = []
    for (name, _), info in zip(module.named_children(), infos, strict=True):
        own = f"{node.name}_{name}"
        while own in graph.nodes:
            own += "_"
        part = replace(
            node,
            name=own,
            target=f"{node.target}.{name}",
            args=(Ref(made[-1].name),) if made else node.args,
            info=info,
            facts=replace(node.facts, features=(), frozen=False),
        )
        made.append(with_frozen_facts(graph, part))
    made[-1] = replace(made[-1], name=node.name, facts=made[-1].facts.taking_over(node.facts))
    return made


def is_stage(graph: ModelGraph, node: Node) -> bool:
    """Whether a call is one of a module that itself has several modules."""
    module = graph.module_of(node)
    return module is not None and _has_parts(module)


def stages_of(graph: ModelGraph, calls: list[Node]) -> list[str]:
    """Names of the calls that are stages; of a trunk without any, all calls of modules with parameters."""
    modules = {node.name: module for node in calls if (module := graph.module_of(node)) is not None}
    stages = [name for name, module in modules.items() if _has_parts(module)]
    return stages or [name for name, module in modules.items() if any(True for _ in module.parameters())]


def reached_by_gradient(graph: ModelGraph) -> set[str]:
    """Calls whose values need a gradient: something that trains is behind them, or behind what they read."""
    reached: set[str] = set()
    for name, node in graph.nodes.items():
        path = str(node.target)
        module = graph.module_of(node)
        names = [f"{path}.{n}" for n, _ in module.named_parameters()] if module is not None else []
        if isinstance(graph.tensor_of(node), nn.Parameter):
            names.append(path)
        if any(not is_frozen(n, graph.frozen) for n in names) or reached & set(node.refs()):
            reached.add(name)
    return reached
