"""Checksums of models and weights: of all of a module, and of what each of its outputs is computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from graphmodel.build.locked_spec import plain_params
from graphmodel.graph.text import info_text, target_text, to_text
from graphmodel.graph.types import ModelGraph, Node, Ref, map_values
from graphmodel.lower.emit import ordered
from graphmodel.lower.module import CompiledModel


def model_digest(module: CompiledModel) -> str:
    """A SHA-256 of the graph, and of the parameters of its trunks and heads."""
    graph = module.model_graph
    parts = {name: [c.family, plain_params(c.params)] for name, c in graph.components.items() if not c.given}
    return hashlib.sha256((to_text(graph) + json.dumps(parts, sort_keys=True, default=str)).encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """A SHA-256 of all parameters and buffers with their names."""
    return _digest_of_tensors(iter(module.state_dict().items()))


def output_digests(module: CompiledModel) -> dict[str, dict[str, str]]:
    """For each output, a SHA-256 of the calls behind it (`model`) and one of their parameters and buffers (`weights`).

    The names of calls, heads that read an output, other outputs and freezing do not count, so that an output has the
    same checksums in every spec that computes it in the same way.

    Args:
        module: what `compile` or `split_frozen` returned.
    """
    graph = module.model_graph
    tensors: dict[str, str] = {}
    found = {}
    for output in ordered(graph):
        for key, name in output.parts.items():
            needed = graph.needed_by([name])
            nodes = [node for node in graph.nodes.values() if node.name in needed]
            weights = hashlib.sha256()
            for node in nodes:
                if node.call in ("module", "attribute"):
                    path = str(node.target)
                    if path not in tensors:
                        tensors[path] = _digest_of_tensors(_tensors(module, node))
                    weights.update(f"{path} {tensors[path]}\n".encode())
            text = hashlib.sha256(_text(graph, nodes, name).encode())
            found[key] = {"model": text.hexdigest(), "weights": weights.hexdigest()}
    return found


def _text(graph: ModelGraph, nodes: list[Node], output: str) -> str:
    """The calls with numbers instead of names, and the parameters of what they call."""
    numbers = {node.name: i for i, node in enumerate(nodes)}
    lines = []
    for node in nodes:
        args = map_values((node.args, dict(node.kwargs)), lambda ref: Ref(f"{numbers[ref.node]}"))
        called = "input" if node.call == "placeholder" else f"{node.call} {target_text(node.target)}"
        lines.append(f"{info_text(node.info)} = {called} {args}")
    components = [graph.components[name] for name in graph.components if any(n.component == name for n in nodes)]
    params = [[c.name, c.family, plain_params(c.params)] for c in components if not c.given]
    return "\n".join([*lines, str(numbers[output]), json.dumps(params, sort_keys=True, default=str)])


def _tensors(module: CompiledModel, node: Node) -> Iterator[tuple[str, torch.Tensor]]:
    path = str(node.target)
    if node.call == "attribute":
        holder, _, leaf = path.rpartition(".")
        value: Any = getattr(module.get_submodule(holder), leaf)
        if isinstance(value, torch.Tensor):
            yield leaf, value
        return
    yield from module.get_submodule(path).state_dict().items()


def _digest_of_tensors(tensors: Iterator[tuple[str, torch.Tensor]]) -> str:
    found = hashlib.sha256()
    for name, value in tensors:
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().cpu().contiguous()
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
