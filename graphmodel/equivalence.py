"""Proves that two specs describe the same model: isomorphic graphs, the same state dict, and the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import networkx as nx
import torch
from torch import nn

from graphmodel.api import build_graph
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph, Node, Ref, map_values
from graphmodel.lower import lower
from graphmodel.lower.random_inputs import random_inputs
from graphmodel.spec.model import ModelSpec

SAMPLES = 2
MOST_BYTES = 2 * 2**30
"""Larger models are compared without weights: by their graphs and the names and shapes of their tensors."""


@dataclass(frozen=True)
class Equivalence:
    """What was compared, and what differs.

    Attributes:
        same: nothing differs.
        differences: sentences; empty if the models are the same.
        calls: calls of each graph.
        tensors: tensors of each state dict.
        outputs: tensors of the result that were compared on random inputs with the same weights, bit by bit; 0 if the
            model is too large for that.
        bytes: memory of parameters and buffers.
    """

    same: bool
    differences: tuple[str, ...]
    calls: int
    tensors: int
    outputs: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The form that `graphmodel convert --check --format json` prints."""
        return {**asdict(self), "differences": list(self.differences)}


def equivalence(before: ModelSpec, after: ModelSpec) -> Equivalence:
    """Compares two specs; names of the models, comments and dialects do not count.

    The graphs have to be isomorphic, with equal targets, arguments, shapes, dtypes and facts; the modules need equal
    names and shapes of tensors, and with the same weights equal outputs in eval mode.

    Args:
        before: a spec.
        after: the other one.

    Raises:
        CompileError: what is wrong with a spec.
    """
    graphs = build_graph(before), build_graph(after)
    found = _graphs(*graphs)
    meta = [_module(graph, "meta") for graph in graphs]
    tensors = [{name: tuple(t.shape) for name, t in module.state_dict().items()} for module in meta]
    found += _tensors(*tensors)
    size = sum(t.numel() * t.element_size() for t in meta[0].state_dict().values())
    compared = 0
    if not found and size <= MOST_BYTES:
        compared, found = _outputs(*graphs)
    return Equivalence(not found, tuple(found), len(graphs[0].nodes), len(tensors[0]), compared, size)


def _module(graph: ModelGraph, device: str) -> nn.Module:
    return lower(graph, device=torch.device(device), seed=0, returns="dict", passes=())


def _graphs(before: ModelGraph, after: ModelGraph) -> list[str]:
    """Differences of the graphs as wholes, and of their inputs and results."""
    found = []
    if list(before.inputs) != list(after.inputs):
        found.append(f"the inputs are {_names(after.inputs)}, they were {_names(before.inputs)}")
    if before.structure != after.structure:
        found.append(f"the nesting of the outputs is {after.structure}, it was {before.structure}")
    if before.spec.returns != after.spec.returns:
        found.append(f"the result is a {after.spec.returns}, it was a {before.spec.returns}")
    if sorted(before.frozen) != sorted(after.frozen):
        found.append(f"frozen is {_names(after.frozen)}, it was {_names(before.frozen)}")
    networks = _described(before), _described(after)
    if not nx.is_isomorphic(networks[0], networks[1], node_match=_equal, edge_match=_equal):
        calls = [sorted(data["call"] for _, data in network.nodes(data=True)) for network in networks]
        gone = [f"− {call}" for call in calls[0] if call not in calls[1]]
        new = [f"+ {call}" for call in calls[1] if call not in calls[0]]
        found += ["the graphs are not isomorphic", *(gone + new)[:20]]
    return found


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one == other


def _described(graph: ModelGraph) -> nx.DiGraph[str]:
    """The graph with a text for each call and the ports of each edge; names of calls do not count."""
    outputs: dict[str, list[str]] = {}
    for output in graph.outputs.values():
        for key, source in output.parts.items():
            outputs.setdefault(source, []).append(key)
    network: nx.DiGraph[str] = nx.DiGraph()
    for name, node in graph.nodes.items():
        network.add_node(name, call=_call(node, outputs.get(name, ())))
    for name, node in graph.nodes.items():
        refs = node.refs()
        for source in dict.fromkeys(refs):
            network.add_edge(source, name, ports=[port for port, ref in enumerate(refs) if ref == source])
    return network


def _call(node: Node, outputs: Sequence[str]) -> str:
    """Everything about a call but what it reads."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))
    blank = map_values((node.args, dict(node.kwargs)), lambda ref: Ref("…"))
    facts = {k: v for k, v in node.facts.stated().items() if k != "changed_by"}
    parts = (
        node.kind,
        node.call,
        target,
        node.component,
        repr(node.info),
        repr(blank),
        repr(facts),
        repr(sorted(outputs)),
    )
    return " ".join(parts)


def _tensors(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> list[str]:
    found = [f"the tensor `{name}` is gone" for name in before if name not in after]
    found += [f"the tensor `{name}` is new" for name in after if name not in before]
    return found + [
        f"the tensor `{name}` has the shape {after[name]}, it was {shape}"
        for name, shape in before.items()
        if after.get(name, shape) != shape
    ]


def _outputs(before: ModelGraph, after: ModelGraph) -> tuple[int, list[str]]:
    """How many tensors of the results were compared, and those that differ."""
    one, other = (_module(graph, "cpu").eval() for graph in (before, after))
    other.load_state_dict(one.state_dict())
    rows = {name: SAMPLES * count for name, count in rows_per_sample(before).items()}
    inputs = random_inputs(one, before, rows)
    with torch.no_grad():
        results = one(*inputs), other(*inputs)
    wrong = [name for name in results[0] if not torch.equal(results[0][name], results[1][name])]
    return len(results[0]), [f"the output `{name}` has other values" for name in wrong]


def _names(names: Any) -> str:
    return ", ".join(map(str, names)) or "nothing"
