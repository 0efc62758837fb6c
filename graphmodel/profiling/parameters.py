"""Counts the parameters behind calls, each parameter once, on the meta device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.graph.types import ModelGraph, Node, path_inside
from graphmodel.passes.folding import FoldedPair


@dataclass(frozen=True)
class ParameterCount:
    """The number of parameters, and how many of them train."""

    total: int = 0
    trainable: int = 0

    @property
    def frozen(self) -> int:
        """How many of them do not train."""
        return self.total - self.trainable


Sizes: TypeAlias = "dict[int, ParameterCount]"
"""The size of each parameter by its identity: a parameter with several names is counted once."""


class Parameters:
    """The parameters of a graph's components."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.known: dict[tuple[str, str], Sizes] = {}

    def of(self, nodes: Iterable[Node]) -> ParameterCount:
        """Counts those that some calls use."""
        return total(joined(self.used_by(node) for node in nodes))

    def used_by(self, node: Node) -> Sizes:
        """Those that a call uses."""
        owns = bool(node.component) and node.call in ("module", "attribute")
        pair = self.graph.module_of(node) if owns and node.call == "module" else None
        if isinstance(pair, FoldedPair):  # looks its two modules up beside itself
            above = str(node.target).rpartition(".")[0]
            return joined(self.below(node.component, f"{above}.{name}") for name in (pair.layer, pair.norm))
        return self.below(node.component, str(node.target)) if owns else {}

    def below(self, component: str, path: str) -> Sizes:
        """Those at and below a path of a component; the component's own name selects all of it."""
        key = (component, path)
        if key not in self.known:
            inner = path_inside(path, component)
            named = self.graph.components[component].meta.named_parameters(remove_duplicate=False)
            self.known[key] = joined(
                {id(p): ParameterCount(p.numel(), p.numel() * self._trains(f"{component}.{name}", p.requires_grad))}
                for name, p in named
                if not inner or name == inner or name.startswith(f"{inner}.")
            )
        return self.known[key]

    def _trains(self, name: str, requires_grad: bool) -> bool:
        return requires_grad and not is_frozen(name, self.graph.frozen)


def joined(several: Iterable[Mapping[int, ParameterCount]]) -> Sizes:
    """The parameters of all; one that is frozen under one of its names does not train."""
    found: Sizes = {}
    for sizes in several:
        for key, size in sizes.items():
            found[key] = size if key not in found or not size.trainable else found[key]
    return found


def total(sizes: Mapping[int, ParameterCount]) -> ParameterCount:
    """The sum over all parameters."""
    return ParameterCount(sum(s.total for s in sizes.values()), sum(s.trainable for s in sizes.values()))
