"""Counts the parameters behind calls, each parameter once, on the meta device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.graph.types import ModelGraph, Node, path_inside


@dataclass(frozen=True)
class Held:
    """How many parameters there are, and how many of them train."""

    total: int = 0
    trainable: int = 0


class Parameters:
    """The parameters of a graph's components."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.frozen = graph.frozen
        self.known: dict[tuple[str, str], dict[int, tuple[int, bool]]] = {}

    def of(self, nodes: Iterable[Node]) -> Held:
        """Those that some calls use."""
        found: dict[int, tuple[int, bool]] = {}
        for node in nodes:
            if node.component and node.call in ("module", "attribute"):
                found |= self.below(node.component, str(node.target))
        return Held(sum(n for n, _ in found.values()), sum(n for n, trains in found.values() if trains))

    def below(self, component: str, path: str) -> dict[int, tuple[int, bool]]:
        """Sizes of the parameters at and below a path, by identity, and whether they train."""
        key = (component, path)
        if key not in self.known:
            inner = path_inside(path, component)
            meta = self.graph.components[component].meta
            self.known[key] = {
                id(p): (p.numel(), p.requires_grad and not is_frozen(f"{component}.{name}", self.frozen))
                for name, p in meta.named_parameters(remove_duplicate=False)
                if not inner or name == inner or name.startswith(f"{inner}.")
            }
        return self.known[key]
