"""Marks the calls whose parameters are all frozen; lowering freezes the modules behind them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from graphmodel.build.freeze_patterns import is_frozen, matches, moving_norms
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult


class Freeze:
    """Adds the fact `frozen`, and `batch_statistics` where the spec leaves BatchNorm in train mode.

    Example:
        >>> from graphmodel.passes._example import example
        >>> graph = example({"images": {"stage1": None}}, freeze=["trunk.conv", "trunk.norm"])
        >>> print(graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images)
          %norm: N×4×6×6 = trunk trunk.norm(%conv)
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          return stage1: stage1=%stage1
        >>> print(Freeze().run(graph).graph)
        graph example(images)
          %images: N×3×8×8 = input
          %conv: N×4×6×6 = trunk trunk.conv(%images) frozen
          %norm: N×4×6×6 = trunk trunk.norm(%conv) frozen
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) features=('stage1',)
          return stage1: stage1=%stage1
    """

    name = "freeze"
    switch: Switch = "always"
    requires: frozenset[str] = frozenset({"prune"})

    def run(self, graph: ModelGraph) -> PassResult:
        frozen = {n.name for n in graph.nodes.values() if is_frozen_call(graph, n, graph.frozen)}
        notes = tuple(_moving(graph))
        if not frozen:
            return PassResult(graph, changed=False, notes=notes)
        nodes = (with_frozen_facts(graph, n) if n.name in frozen else n for n in graph.nodes.values())
        return PassResult(graph.replace_nodes(nodes), changed=True, notes=notes)

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if list(before.nodes) != list(after.nodes):
            raise InvalidGraph("freeze changed the calls")


def is_frozen_call(graph: ModelGraph, node: Node, frozen: tuple[str, ...]) -> bool:
    """Whether every parameter behind the call is frozen (and the call itself covered, if it has none)."""
    if not frozen or node.call not in ("module", "attribute"):
        return False
    path = str(node.target)
    if is_frozen(path, frozen):
        return True
    module = graph.module_of(node)
    if module is None:
        return False
    names = [f"{path}.{n}" for n, _ in module.named_parameters()]
    return bool(names) and all(is_frozen(n, frozen) for n in names)


def with_frozen_facts(graph: ModelGraph, node: Node) -> Node:
    """The call with the facts about what is frozen in it."""
    module, path = graph.module_of(node), str(node.target)
    moving = module is not None and bool(moving_norms(module, graph.frozen, path))
    return node.with_facts(frozen=is_frozen_call(graph, node, graph.frozen), batch_statistics=moving)


def _moving(graph: ModelGraph) -> Iterator[Diagnostic]:
    """A note for each pattern that freezes a part of a norm's parameters, so that its statistics still move."""
    norms = {
        f"{node.target}.{name}" if name else str(node.target): norm
        for node in graph.nodes.values()
        for name, norm in _norms(graph.module_of(node))
    }
    for i, pattern in enumerate(graph.frozen):
        partly = []
        for path, norm in norms.items():
            own = [f"{path}.{name}" for name, _ in norm.named_parameters(recurse=False)]
            covered = is_frozen(path, graph.frozen) or all(is_frozen(name, graph.frozen) for name in own)
            if not covered and any(matches(name, pattern) for name in own):
                partly.append(path)
        if partly:
            more = f" and {len(partly) - 1} more" if len(partly) > 1 else ""
            only = f"`{pattern}` covers only some of its parameters"
            at = i - (len(graph.frozen) - len(graph.spec.freeze))
            yield Diagnostic(
                "GM402",
                f"not frozen: the running statistics of `{partly[0]}`{more}; {only}",
                graph.spec.span(("freeze", at)) or graph.spec.span(("freeze",)),
                f"name the module to freeze its statistics too: `{partly[0]}`",
                "note",
                f"freeze[{at}]",
            )


def _norms(module: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_modules() if module is not None else ():
        if isinstance(part, _NormBase) and part.track_running_stats and part.affine:
            yield name, part
