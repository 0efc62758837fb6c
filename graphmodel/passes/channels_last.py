"""Runs frozen convolutional trunks in the channels-last memory format."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphmodel.build.freeze_patterns import is_frozen
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Diagnostic, first_line
from graphmodel.graph.types import InvalidGraph, ModelGraph, Node, Output, Ref, trunk_path
from graphmodel.passes.manager import Switch
from graphmodel.passes.on_meta import batch_size, filled
from graphmodel.passes.result import PassResult

FORMAT = {"memory_format": torch.channels_last}


class ChannelsLast:
    """Converts what a frozen trunk reads to channels-last format, and what leaves its frozen calls back.

    The frozen weights are put into the same format once. Numbers and shapes stay; between the frozen calls of a trunk
    values have the strides of `torch.channels_last`, which only hooks see. Convolutions then need no conversion of
    their own, and pooling is several times faster on a CPU.

    Legality: each frozen call runs on meta with values and weights in that format (code that takes a view of a map may
    not); a trunk with a single convolution gains nothing and is left alone.

    Example:
        >>> from graphmodel.passes._example import example
        >>> from graphmodel.passes.freeze import Freeze
        >>> frozen = ["trunk.conv", "trunk.norm", "trunk.stage1"]
        >>> graph = Freeze().run(example({"images": {"stage2": None}}, freeze=frozen)).graph
        >>> print("\\n".join(str(graph).splitlines()[2:6]))
          %conv: N×4×6×6 = trunk trunk.conv(%images) frozen
          %norm: N×4×6×6 = trunk trunk.norm(%conv) frozen
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) frozen
          %stage2: N×4×2×2 = trunk trunk.stage2(%stage1) features=('stage2',)
        >>> print("\\n".join(str(ChannelsLast().run(graph).graph).splitlines()[2:8]))
          %images_channels_last: N×3×8×8 = op .contiguous(%images, memory_format=torch.channels_last)
          %conv: N×4×6×6 = trunk trunk.conv(%images_channels_last) channels_last frozen
          %norm: N×4×6×6 = trunk trunk.norm(%conv) channels_last frozen
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) channels_last frozen
          %stage1_contiguous: N×4×4×4 = op .contiguous(%stage1)
          %stage2: N×4×2×2 = trunk trunk.stage2(%stage1_contiguous) features=('stage2',)
    """

    name = "channels_last"
    switch: Switch = "off"
    requires: frozenset[str] = frozenset({"freeze"})

    def run(self, graph: ModelGraph) -> PassResult:
        calls: set[str] = set()
        notes: list[Diagnostic] = []
        converted: list[str] = []
        for name in graph.called_components():
            own = [
                n for n in graph.nodes.values() if n.component == name and n.kind == "trunk" and _is_candidate(graph, n)
            ]
            if not own:
                continue
            reason = why_not(graph, own, "frozen convolution")
            if reason:
                code, message = reason
                span = graph.components[name].span
                notes.append(
                    Diagnostic(
                        code, f"not in channels-last format: `{name}` {message}", span, severity="note", path=name
                    )
                )
                continue
            calls |= {n.name for n in own}
            converted.append(name)
        if not calls:
            return PassResult(graph, changed=False, notes=tuple(notes))
        summary = f"the frozen calls of {', '.join(f'`{name}`' for name in converted)} run in channels-last format"
        return PassResult(in_channels_last(graph, calls), changed=True, summary=summary, notes=tuple(notes))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if [name for name in after.nodes if name in before.nodes] != list(before.nodes):
            raise InvalidGraph("channels_last dropped calls or changed their order")


def is_convolutional(module: nn.Module) -> bool:
    """Whether a module has more than the single convolution with which transformers cut an image into patches."""
    return sum(isinstance(part, nn.Conv2d) for part in module.modules()) > 1


def is_map(node: Node) -> bool:
    """Whether a node's value is one floating-point tensor of four dimensions."""
    info = node.info
    return isinstance(info, TensorInfo) and len(info.shape) == 4 and getattr(torch, info.dtype).is_floating_point


def convert_weights(root: nn.Module, graph: ModelGraph) -> None:
    """Puts the weights of calls that run in channels-last format into that format, in place.

    Of a trunk that the spec puts into it all weights are converted, otherwise the frozen ones.
    """
    wholly = {trunk_path(graph.spec, k) for k, t in graph.spec.trunks.items() if t.memory_format == "channels_last"}
    names = {n.component for n in graph.nodes.values() if n.facts.channels_last}
    for path, parameter in root.named_parameters():
        trunk = next((name for name in names if path.startswith(f"{name}.")), None)
        if trunk is None or parameter.ndim != 4 or not (trunk in wholly or is_frozen(path, graph.frozen)):
            continue
        if not parameter.is_contiguous(memory_format=torch.channels_last):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def with_channels_last(graph: ModelGraph) -> ModelGraph:
    """A graph whose calls of trunks and heads all run in channels-last format; for inference."""
    calls = {n.name for n in graph.nodes.values() if n.call == "module"}
    functions = {n.name for n in graph.nodes.values() if n.call in ("function", "method") and is_map(n)}
    inputs = {n.name for n in graph.nodes.values() if n.kind == "input"}
    return in_channels_last(graph, calls | functions - inputs, outputs_only=True)


def _is_candidate(graph: ModelGraph, node: Node) -> bool:
    """Whether a call is frozen and reads or makes a feature map."""
    return node.call == "module" and node.facts.frozen and not node.facts.channels_last and has_maps(graph, node)


def has_maps(graph: ModelGraph, node: Node) -> bool:
    """Whether a call reads or makes a feature map."""
    return is_map(node) or any(is_map(graph.nodes[ref]) for ref in node.refs())


def why_not(graph: ModelGraph, calls: list[Node], what: str) -> tuple[str, str] | None:
    """Why calls of a trunk do not run in channels-last format, with the code of the finding.

    Args:
        graph: the graph.
        calls: calls of modules.
        what: what to call a convolution among them.
    """
    modules = {str(n.target): module for n in calls if (module := graph.module_of(n)) is not None}
    if sum(isinstance(p, nn.Conv2d) for m in modules.values() for p in m.modules()) <= 1:
        return "GM426", f"has no more than one {what}, so the format has no effect"
    batch = batch_size(graph)

    def last(value: Any) -> Any:
        tensor = isinstance(value, torch.Tensor) and value.ndim == 4
        return value.contiguous(memory_format=torch.channels_last) if tensor else value

    for node in calls:
        module = copy.deepcopy(modules[str(node.target)]).eval()
        for part in module.modules():  # on meta, convolutions do not hand the format on
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda _, __, value: last(value))
        try:
            with torch.no_grad(), torch.device("meta"):
                module.to(memory_format=torch.channels_last)
                args = [last(value) for value in filled(graph, list(node.args), batch)]
                module(*args, **filled(graph, dict(node.kwargs), batch))
        except Exception as error:  # the module's own code may raise anything
            return "GM425", f"cannot run in it: `{node.target}` fails with {first_line(error)}"
    return None


def in_channels_last(graph: ModelGraph, calls: set[str], *, outputs_only: bool = False) -> ModelGraph:
    """The graph with conversions where feature maps enter and leave the calls.

    Args:
        graph: the graph.
        calls: names of the calls that read and make feature maps in channels-last format.
        outputs_only: values that leave are converted back only if they are outputs of the model.
    """
    nodes: dict[str, Node] = {}
    entering: dict[str, str] = {}
    leaving: dict[str, str] = {}
    read = {n for output in graph.outputs.values() for n in output.parts.values()}
    for node in graph.nodes.values():
        inside = node.name in calls
        rename: dict[str, str] = {}
        for ref in node.refs():
            source = graph.nodes[ref]
            if not is_map(source):
                continue
            if inside and ref not in calls:
                rename[ref] = _conversion(graph, nodes, entering, source, "channels_last")
            elif not inside and ref in calls and not outputs_only:
                rename[ref] = _conversion(graph, nodes, leaving, source, "contiguous")
        node = node.reading(rename)
        if inside and node.component and not outputs_only:
            node = node.with_facts(channels_last=True)
        nodes[node.name] = node
    ends = {n for n in read if n in calls and is_map(graph.nodes[n])}
    renamed = {name: _conversion(graph, nodes, leaving, graph.nodes[name], "contiguous") for name in sorted(ends)}
    outputs: dict[str, Output] = {
        name: replace(output, parts={key: renamed.get(n, n) for key, n in output.parts.items()})
        for name, output in graph.outputs.items()
    }
    return graph.replace_nodes(nodes.values(), outputs=outputs)


def _conversion(graph: ModelGraph, nodes: dict[str, Node], made: dict[str, str], source: Node, to: str) -> str:
    """The name of the call that converts a value, added if there is none yet."""
    if source.name not in made:
        name = f"{source.name}_{to}"
        while name in nodes or name in graph.nodes:
            name += "_"
        kwargs = FORMAT if to == "channels_last" else {}
        nodes[name] = Node(
            name,
            "op",
            "method",
            "contiguous",
            (Ref(source.name),),
            kwargs,
            info=source.info,
            span=source.span,
            scope=source.scope,
        )
        made[source.name] = name
    return made[source.name]
