"""An fx graph as plain data, to be pickled and compared."""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from graphmodel.diagnostics import fail, first_line
from graphmodel.graph.text import target_text
from graphmodel.lower.codegen import ModelCode

# `torch.save` pickles by protocol 2, in which torch's memory formats fail: they are named as attributes of the module.
copyreg.pickle(torch.memory_format, lambda memory_format: str(memory_format).removeprefix("torch."))


@dataclass(frozen=True)
class NodeRef:
    """Another node, as an argument."""

    name: str


@dataclass(frozen=True)
class PackedNode:
    """A node of an fx graph."""

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    meta: Mapping[str, Any]


def pack(graph: fx.Graph) -> list[PackedNode]:
    """The nodes in order; of their `meta` what this package keeps there."""

    def leaf(value: Any) -> Any:
        return NodeRef(value.name) if isinstance(value, fx.Node) else value

    def plain(value: Any) -> Any:
        return map_aggregate(value, leaf)

    return [
        PackedNode(n.op, n.name, n.target, plain(n.args), plain(n.kwargs), dict(n.meta.get("graphmodel", {})))
        for n in graph.nodes
    ]


def unpack(nodes: list[PackedNode]) -> fx.Graph:
    """The graph of packed nodes."""
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def value(arguments: Any) -> Any:
        return map_aggregate(arguments, lambda leaf: made[leaf.name] if isinstance(leaf, NodeRef) else leaf)

    for node in nodes:
        new = graph.create_node(node.op, node.target, value(node.args), value(node.kwargs), name=node.name)
        if node.meta:
            new.meta["graphmodel"] = dict(node.meta)
        made[node.name] = new
    graph.set_codegen(ModelCode())
    return graph


def check_picklable(nodes: list[PackedNode]) -> None:
    """Refuses a graph that calls a function which cannot be found again by its name.

    Raises:
        CompileError: GM504.
    """
    for node in nodes:
        try:
            pickle.dumps((node.target, node.args, node.kwargs))
        except Exception as error:
            called = target_text(node.target)
            message = f"the node `{node.name}` of the edited graph cannot be pickled: {first_line(error)}"
            help = f"call a function that is defined at the top of a module, not `{called}`"
            raise fail("GM504", message, help=help) from error
