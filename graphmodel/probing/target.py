"""What is probed: the trainable heads of a module behind its frozen features, or features alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Collector, CompileError, Span, choices_help
from graphmodel.extraction.digests import output_digests
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.lower.emit import ordered
from graphmodel.lower.module import CompiledModel
from graphmodel.lower.splitting import split_frozen


@dataclass(frozen=True)
class Feature:
    """A value that the store must have.

    Attributes:
        name: its name in the store.
        info: its shape and dtype.
        span: what in the spec reads it.
        digests: checksums of what computes it.
    """

    name: str
    info: TensorInfo
    span: Span | None
    digests: dict[str, str]


@dataclass(frozen=True)
class Head:
    """An output that trains.

    Attributes:
        name: the output.
        node: the call that computes it.
        features: names of the features behind it.
        heads: names of the heads behind it.
    """

    name: str
    node: Node
    features: tuple[str, ...]
    heads: tuple[str, ...]


def heads_of(module: CompiledModel, outputs: Sequence[str] | None) -> tuple[CompiledModel, list[Head], list[Feature]]:
    """The trainable part of a module, as a module that returns a dict, its outputs, and the features that it reads.

    Args:
        module: the whole module.
        outputs: names of the outputs to train; all that train if None.

    Raises:
        CompileError: GM565 if nothing is frozen or nothing trains, GM615 if an output does not give logits.
    """
    first, second = split_frozen(module.slice(outputs=outputs, returns="dict"))
    graph = second.model_graph
    found = [head for head in _outputs(graph) if _trains(graph, head)]
    report = Collector()
    for head in found:
        info = head.node.info
        if not isinstance(info, TensorInfo) or len(info.shape) != 2 or not isinstance(info.shape[1], int):
            shape = str(info) if isinstance(info, TensorInfo) else "several tensors"
            message = f"the output `{head.name}` is {shape}, and a probe takes logits N×classes"
            report.error("GM615", message, head.node.span, "choose other outputs (`--outputs`)")
    report.raise_errors()
    heads = second.slice(outputs=[head.name for head in found], returns="dict")
    digests = output_digests(first)
    known = {key: first.model_graph.nodes[name] for o in ordered(first.model_graph) for key, name in o.parts.items()}
    readers = {ref: node.span for node in reversed([*heads.model_graph.nodes.values()]) for ref in node.refs()}
    features = [_feature(name, known[name], readers.get(name), digests[name]) for name in heads.model_graph.inputs]
    return heads, found, features


def features_of(module: CompiledModel, names: Sequence[str] | None) -> list[Feature]:
    """The features of a module: what its heads read, and what the module itself returns.

    Args:
        module: the whole module.
        names: names of the features to take; all if None.

    Raises:
        CompileError: GM502 if a name is not that of a feature.
    """
    whole = module.slice(returns="dict")
    parts = [whole]
    with suppress(CompileError):  # if nothing or everything is frozen, there are no features but the outputs
        parts.insert(0, split_frozen(whole)[0])
    found: dict[str, Feature] = {}
    for part in parts:
        digests = output_digests(part)
        nodes = {key: part.model_graph.nodes[name] for o in ordered(part.model_graph) for key, name in o.parts.items()}
        for name, node in nodes.items():
            if isinstance(node.info, TensorInfo):
                found.setdefault(name, _feature(name, node, node.span, digests[name]))
    report = Collector()
    for name in names or ():
        if name not in found:
            report.error("GM502", f"unknown feature `{name}`", None, choices_help(name, list(found), "features"))
    report.raise_errors()
    return list(found.values()) if names is None else [found[name] for name in names]


def _feature(name: str, node: Node, span: Span | None, digests: dict[str, str]) -> Feature:
    assert isinstance(node.info, TensorInfo)
    return Feature(name, node.info, span or node.span, digests)


def _outputs(graph: ModelGraph) -> list[Head]:
    found = []
    for output in ordered(graph):
        for key, name in output.parts.items():
            needed = graph.needed_by([name])
            nodes = [node for node in graph.nodes.values() if node.name in needed]
            features = tuple(node.name for node in nodes if node.call == "placeholder")
            heads = dict.fromkeys(head_name(n.component) for n in nodes if n.component.startswith("heads."))
            found.append(Head(key, graph.nodes[name], features, tuple(heads)))
    return found


def _trains(graph: ModelGraph, head: Head) -> bool:
    """Whether a parameter is behind an output; what is frozen is not in this part."""
    return any(
        any(True for _ in module.parameters())
        for name in graph.needed_by([head.node.name])
        if (module := graph.module_of(graph.nodes[name])) is not None
    )
