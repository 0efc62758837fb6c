"""The passes of a picture: which inputs, or views of one, a value comes from."""

from __future__ import annotations

from graphmodel.graph.types import ModelGraph, Node
from graphmodel.visualize import labels


class Flows:
    """The passes of a picture: which inputs, or views of one, a value comes from. Trunks with the same views share one.

    Attributes:
        names: display name of each flow by its id.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.entries: dict[str, frozenset[str]] = {}
        upstream: dict[str, frozenset[str]] = {}
        for name, node in graph.nodes.items():
            if node.kind == "input":
                upstream[name] = frozenset([name])
                continue
            reads = frozenset[str]().union(*(upstream[r] for r in node.refs()))
            if node.scope:
                self.entries[node.scope] = self.entries.get(node.scope, frozenset()) | reads
            upstream[name] = reads
        ids = {entry: f"flow{i}" for i, entry in enumerate(dict.fromkeys(self.entries.values()))}
        self.scopes = {scope: ids[entry] for scope, entry in self.entries.items()}
        self.names = {id: self.name(entry) for entry, id in ids.items()}
        self.carried: dict[str, frozenset[str]] = {}
        for name, node in graph.nodes.items():
            if node.scope:
                self.carried[name] = frozenset([self.scopes[node.scope]])
            else:
                self.carried[name] = frozenset[str]().union(*(self.carried[r] for r in node.refs()))

    def name(self, entry: frozenset[str]) -> str:
        """`images`, `crops 0–1 (224×224)`."""
        nodes = [self.graph.nodes[n] for n in self.graph.nodes if n in entry]
        inputs = list(dict.fromkeys(input_of(n) for n in nodes))
        if len(inputs) > 1:
            return labels.names(inputs)
        views = self.graph.inputs[inputs[0]].views if inputs else None
        chosen = [n for n in nodes if n.call != "placeholder"]
        if views is None or not chosen or len(chosen) == len(views):
            return inputs[0] if inputs else ""
        numbers = [int(n.args[1]) for n in chosen]
        sizes = list(dict.fromkeys("×".join(str(d) for d in views[i][1:]) for i in numbers))
        return f"{inputs[0]} {labels.span_of(numbers)} ({', '.join(sizes)})"

    def of_scope(self, scope: str) -> str:
        """The name of a trunk pass's flow."""
        return self.names[self.scopes[scope]]

    def of_edge(self, source: str, target: str) -> str:
        """The flow of an edge, if there are several and it belongs to one."""
        if len(self.names) < 2:
            return ""
        node = self.graph.nodes.get(target)
        carried = self.carried[target] if node is not None and node.scope else self.carried[source]
        return next(iter(carried)) if len(carried) == 1 else ""


def input_of(node: Node) -> str:
    """The input that a node is, or is a view of."""
    return node.name if node.call == "placeholder" else node.refs()[0]
