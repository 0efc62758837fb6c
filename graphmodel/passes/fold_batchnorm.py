"""Folds frozen BatchNorm layers into the frozen convolution or linear layers before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from torch import nn

from graphmodel.build.freeze_patterns import frozen_modules
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.facts import Pairs
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.passes.foldable import Found, is_layer, is_norm, layers_and_channels, pairs_in
from graphmodel.passes.folding import FoldedPair
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult


class FoldBatchnorm:
    """Marks frozen layers that run with their frozen BatchNorm folded into the weight; `folded` is their number.

    A layer and a BatchNorm that the graph calls one after the other become one call; those inside of a stage are found
    by tracing its code, and the stage stays one call. The weights are folded anew in every forward, for inputs large
    enough that this pays, so nothing can be out of date; see `graphmodel.passes.folding`.

    Legality: the BatchNorm is frozen, so it uses its running statistics in both modes; the layer is a plain
    convolution, transposed convolution or linear layer that is frozen too; nothing else reads its result; both are
    called once, by the same module, in both modes.

    Example:
        >>> from graphmodel.passes._example import example
        >>> from graphmodel.passes.freeze import Freeze
        >>> graph = Freeze().run(example({"images": {"stage1": None}}, freeze=["trunk.conv", "trunk.norm"])).graph
        >>> print(graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images) frozen
          %norm: N×4×6×6 = trunk trunk.norm(%conv) frozen
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          return stage1: stage1=%stage1
        >>> print(FoldBatchnorm().run(graph).graph)
        graph example(images)
          %images: N×3×8×8 = input
          %norm: N×4×6×6 = trunk trunk.conv_norm(%images) frozen
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          return stage1: stage1=%stage1
    """

    name = "fold_batchnorm"
    switch: Switch = "off"
    requires: frozenset[str] = frozenset({"freeze"})

    def run(self, graph: ModelGraph) -> PassResult:
        frozen = _frozen_paths(graph)
        between, declined = pairs_between_calls(graph, frozen)
        inside: dict[str, Pairs] = {}
        for target, module in _called(graph).items():
            found = _frozen_in(target, module, frozen)
            inside[target] = Pairs(found.pairs)
            declined.update({f"{target}.{path}": reason for path, reason in found.declined.items()})
        notes = tuple(
            _notes(graph, declined, {target for layer, norm, _ in between for target in (layer, norm)}, frozen)
        )
        count = len({norm for _, norm, _ in between}) + sum(map(len, inside.values()))
        if not count:
            return PassResult(graph, changed=False, notes=notes)
        summary = f"{count} frozen BatchNorm layer{'s are' if count > 1 else ' is'} folded into the layer before"
        return PassResult(_folded(graph, between, inside), changed=True, summary=summary, notes=notes)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if any(n.facts.folded and n.name not in before.nodes for n in after.nodes.values()):
            raise InvalidGraph("fold_batchnorm added calls")


def _frozen_paths(graph: ModelGraph) -> set[str]:
    """Paths of the modules that stay in eval mode and do not train."""
    return {
        path
        for name, component in graph.components.items()
        for path, _ in frozen_modules(component.meta, graph.frozen, name)
    }


def _called(graph: ModelGraph) -> dict[str, nn.Module]:
    """The modules that the graph calls, by path."""
    modules = {str(n.target): graph.module_of(n) for n in graph.nodes.values() if n.call == "module"}
    return {target: module for target, module in modules.items() if module is not None}


def _frozen_in(target: str, module: nn.Module, frozen: set[str]) -> Found:
    """The pairs inside of a called module of which both parts are frozen, and why other frozen norms stay."""
    norms = [path for path, part in module.named_modules() if path and is_norm(part) and f"{target}.{path}" in frozen]
    if not norms:
        return Found()
    found = pairs_in(module)
    kept = Found()
    for pair in found.pairs:
        layer, norm = pair.path_of(pair.layer), pair.path_of(pair.norm)
        if norm not in norms:
            continue
        if f"{target}.{layer}" in frozen:
            kept.pairs.append(pair)
        else:
            kept.declined[norm] = f"the layer before it, `{target}.{layer}`, is not frozen"
    kept.declined.update({path: reason for path, reason in found.declined.items() if path in norms})
    return kept


_Between = tuple[str, str, tuple[tuple[str, str], ...]]
"""The paths of a layer and of its BatchNorm, and the names of their calls, pair by pair."""


class Everything(frozenset[str]):
    """The paths of all modules, for a model that no longer trains."""

    def __contains__(self, path: object) -> bool:
        return True


def pairs_between_calls(graph: ModelGraph, frozen: Set[str]) -> tuple[list[_Between], dict[str, str]]:
    """Pairs that the graph itself calls one after the other, everywhere they are called; and why others are not."""
    users = graph.users()
    outputs = {n for output in graph.outputs.values() for n in output.parts.values()}
    pairs: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        module = graph.module_of(node)
        if module is not None and is_norm(module) and str(node.target) in frozen:
            pairs.setdefault(str(node.target), []).append(node)
    found: list[_Between] = []
    declined: dict[str, str] = {}
    for norm, calls in pairs.items():
        layers, reason = set(), ""
        for call in calls:
            refs = call.refs()
            source = graph.nodes[refs[0]] if len(refs) == 1 and len(call.args) == 1 and not call.kwargs else None
            module = graph.module_of(source) if source is not None else None
            if source is None or module is None or not is_layer(module):
                reason = "it does not read the result of a convolution or linear layer directly"
            elif not layers_and_channels(module, graph.module_of(call)):  # type: ignore[arg-type]
                reason = f"`{source.target}` has another number of channels"
            elif str(source.target) not in frozen:
                reason = f"the layer before it, `{source.target}`, is not frozen"
            elif users[source.name] != [call.name] or source.name in outputs or source.facts.of_order():
                reason = f"the result of `{source.target}` is read by others too"
            elif len(source.args) != 1 or source.kwargs or source.component != call.component:
                reason = f"`{source.target}` is called with further arguments"
            elif source.facts.checkpoint != call.facts.checkpoint:
                reason = f"`{source.target}` belongs to another segment of `checkpoint`"
            elif _holder(source) != _holder(call):
                reason = f"`{source.target}` belongs to another module"
            else:
                layers.add(str(source.target))
        layer = layers.pop() if len(layers) == 1 and not reason else ""
        if layer and sum(n.target == layer for n in graph.nodes.values()) == len(calls):
            found.append((layer, norm, tuple((graph.nodes[c.refs()[0]].name, c.name) for c in calls)))
        else:
            declined[norm] = reason or "the layer before it is called elsewhere too, or differs between its calls"
    return found, declined


def _holder(node: Node) -> str:
    return str(node.target).rpartition(".")[0]


def _folded(graph: ModelGraph, between: list[_Between], inside: Mapping[str, Pairs]) -> ModelGraph:
    """The graph with each pair between calls as one call, and the facts of those inside of calls."""
    components = dict(graph.components)
    target_of: dict[str, str] = {}
    layer_of: dict[str, str] = {}
    for layer, norm, calls in between:
        component = components[graph.nodes[calls[0][1]].component]
        names = [path.rpartition(".")[2] for path in (layer, norm)]
        path = f"{layer}_{names[1]}".removeprefix(component.name).removeprefix(".")
        holder = component.meta.get_submodule(path.rpartition(".")[0])
        while hasattr(holder, path.rpartition(".")[2]) or path in component.extras:
            path += "_"
        pair = FoldedPair(*names)
        pair.holder = (holder,)  # the graph itself can be run on meta, to count what it costs
        extras = {**component.extras, path: pair}
        components[component.name] = replace(component, extras=extras)
        for source, call in calls:
            layer_of[call], target_of[call] = source, f"{component.name}.{path}"
    nodes = []
    for node in graph.nodes.values():
        if node.name in target_of:
            node = replace(node, target=target_of[node.name], args=graph.nodes[layer_of[node.name]].args)
        elif inside.get(str(node.target)):
            node = node.with_facts(folded=inside[str(node.target)])
        nodes.append(node)
    changed = graph.replace_nodes(nodes, components=components)
    return changed.drop(layer_of.values())


def _notes(graph: ModelGraph, declined: Mapping[str, str], paired: set[str], frozen: set[str]) -> Iterator[Diagnostic]:
    """A note for each reason for which frozen BatchNorm layers of a component stay as they are."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for path, reason in declined.items():
        if path not in paired:
            owner = next(n for n in graph.components if path == n or path.startswith(f"{n}."))
            by_reason.setdefault((owner, reason), []).append(path)
    for (owner, reason), paths in by_reason.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        span = graph.components[owner].span
        yield Diagnostic("GM420", f"not folded: `{paths[0]}`{more}: {reason}", span, severity="note", path=owner)
    if not any(
        is_norm(part) and f"{t}.{path}".rstrip(".") in frozen
        for t, m in _called(graph).items()
        for path, part in m.named_modules()
    ):
        message = "nothing to fold: the model has no frozen BatchNorm layer"
        span = graph.spec.span(("freeze",)) or graph.spec.span(("optimize",))
        yield Diagnostic(
            "GM421", message, span, "freeze the trunk, or use `graphmodel.optimize_for_inference`", "note", "freeze"
        )
