"""Counts the layers of a trunk: which of its blocks a parameter belongs to, for learning rates by depth."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from graphmodel.graph.types import Component, ModelGraph

_NUMBERED = re.compile(r"\d$")


def layer_depths(graph: ModelGraph, component: Component) -> dict[str, int]:
    """The layer of every parameter of a trunk that the graph calls, by its path in the trunk.

    Layer 0 is what comes before the first block (the patch embedding, the stem). Every block that runs is one more
    layer: a residual block, a transformer block. A layer between blocks belongs to the block before it, and what
    leads into the first block of a stage (its downsampling) belongs to that block. In a trunk without blocks, such as
    AlexNet, every convolution and every linear layer is a layer of its own.
    Tokens and position embeddings are part of layer 0 wherever they come in.

    Source: BEiT (Bao et al. 2021), `optim_factory.py`; the layers are those of timm's `group_matcher` on ViT, ResNet,
    ConvNeXt and Swin.

    Args:
        graph: the model graph; the order of its calls is the order of the layers.
        component: one of its trunks.
    """
    trunk = component.meta
    calls = [
        n.path for n in graph.nodes.values() if n.component == component.name and n.call in ("module", "attribute")
    ]
    names = [name for name, _ in trunk.named_parameters(remove_duplicate=False)]
    first_call = {name: call for name in names if (call := _first(calls, name)) is not None}
    blocks = list(_blocks(trunk, "")) or _branches(trunk) or list(_single_layers(trunk))
    order = [
        (call, position, path) for position, path in enumerate(blocks) if (call := _first(calls, path)) is not None
    ]
    layer_of = {path: layer for layer, (_, _, path) in enumerate(sorted(order), 1)}
    depths: dict[str, int] = {}
    reached = 0
    # Parameters in the order of execution, those of one call in the order of registration.
    for name in sorted(first_call, key=lambda n: (first_call[n], names.index(n))):
        block = next((path for path in layer_of if _inside(name, path)), None)
        if block is not None:
            reached = layer_of[block]
        depths[name] = reached if "." in name else 0  # tokens and position embeddings are part of the input
    _join_leading(depths, layer_of, trunk)
    used = {depth: i for i, depth in enumerate(sorted(set(depths.values())))}
    return {name: used[depth] for name, depth in depths.items()}


def _join_leading(depths: dict[str, int], layer_of: dict[str, int], trunk: nn.Module) -> None:
    """Moves what a stage has before its first block, such as a downsampling, to that block."""
    for name in depths:
        if any(_inside(name, path) for path in layer_of):
            continue
        stage = name.rpartition(".")[0]
        while stage:
            inside = [layer for path, layer in layer_of.items() if _inside(path, stage)]
            if inside and not _holds_all(stage, trunk, layer_of):
                if depths[name] < min(inside):
                    depths[name] = min(inside)
                break
            stage = stage.rpartition(".")[0]


def _holds_all(stage: str, trunk: nn.Module, layer_of: dict[str, int]) -> bool:
    """Whether a module holds every block: then it holds the stages (`encoder`, `features`) and is not one itself."""
    return all(_inside(path, stage) for path in layer_of)


def _first(calls: list[str], path: str) -> int | None:
    """The position of the first call that runs a path, or a part of it."""
    return next((i for i, call in enumerate(calls) if _inside(path, call) or _inside(call, path)), None)


def _inside(path: str, holder: str) -> bool:
    return not holder or path == holder or path.startswith(f"{holder}.")


def _weights(module: nn.Module) -> int:
    """The number of matrices and kernels."""
    return sum(parameter.dim() > 1 for parameter in module.parameters())


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    """Paths of the blocks in a module: numbered parts with several weights that make up most of it.

    Numbered parts may hold numbered parts (stages hold blocks); a part that holds most of the weights may hold them
    (`encoder.layers`). A block's own parts, such as the squeeze-and-excitation in an inverted bottleneck, do not make
    up most of it.
    """
    parts = {name: part for name, part in module.named_children() if _weights(part) > 1}
    half = _weights(module) / 2
    numbered = {name: part for name, part in parts.items() if _NUMBERED.search(name)}
    if sum(map(_weights, numbered.values())) > half:
        for name, part in numbered.items():
            inner = f"{path}.{name}".lstrip(".")
            yield from list(_blocks(part, inner)) or [inner]
        return
    for name, part in parts.items():
        if _weights(part) > half:
            yield from _blocks(part, f"{path}.{name}".lstrip("."))


def _branches(trunk: nn.Module) -> list[str]:
    """Names of the trunk's parts with several weights, such as Inception's, if they hold most of it."""
    parts = [n for n, m in trunk.named_children() if _weights(m) > 1 and not isinstance(m, nn.Sequential)]
    held = sum(_weights(trunk.get_submodule(name)) for name in parts)
    return parts if len(parts) > 1 and held > _weights(trunk) / 2 else []


def _single_layers(trunk: nn.Module) -> Iterator[str]:
    """Paths of the modules that own a weight, in a trunk without blocks."""
    for path, module in trunk.named_modules():
        if any(p.dim() > 1 for p in module.parameters(recurse=False)) and path:
            yield path
