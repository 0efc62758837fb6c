"""The invariants of every graph, checked after the build and after each pass."""

from __future__ import annotations

import keyword

import networkx as nx

from graphmodel.graph.types import InvalidGraph, ModelGraph


def verify(graph: ModelGraph, after: str = "the build") -> None:
    """Checks order, references, names, components, inputs and outputs.

    Raises:
        InvalidGraph: naming the invariant, the node and the step that broke it.
    """
    problems: list[str] = []
    seen: set[str] = set()
    for name, node in graph.nodes.items():
        if node.name != name or not name.isidentifier() or keyword.iskeyword(name):
            problems.append(f"`{name}` is not a valid name for `{node.name}`")
        problems += [f"`{name}` reads `{r}` before it is computed" for r in node.refs() if r not in seen]
        if node.component and node.component not in graph.components:
            problems.append(f"`{name}` calls the unknown component `{node.component}`")
        if node.call in ("module", "attribute") and not str(node.target).startswith(node.component):
            problems.append(f"`{name}` calls `{node.target}` outside of `{node.component}`")
        if node.call == "placeholder" and node.name not in graph.inputs:
            problems.append(f"`{name}` is not a declared input")
        seen.add(name)
    for output in graph.outputs.values():
        problems += [f"the output `{k}` reads the unknown `{n}`" for k, n in output.parts.items() if n not in seen]
    problems += [f"the input `{i}` has no node" for i in graph.inputs if i not in seen]
    # Calls that each read only earlier ones cannot form a cycle.
    if problems and not nx.is_directed_acyclic_graph(network := graph.network):
        path = " -> ".join(source for source, _, _ in nx.find_cycle(network))
        problems.append(f"the calls {path} read each other in a cycle")
    if problems:
        ran = ", ".join(graph.history) or "none"
        raise InvalidGraph(f"after {after} (passes before: {ran}): " + "; ".join(problems))
