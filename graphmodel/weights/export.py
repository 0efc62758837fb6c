"""Writes a compiled module's weights under other names: VISSL's, or the trunk library's own."""

from __future__ import annotations

import re
from typing import Literal

import torch

from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import Collector, CompileError, Diagnostic
from graphmodel.dialects.vissl.context import read_context
from graphmodel.graph.types import Component, ModelGraph
from graphmodel.lower.module import CompiledModel

Tensors = dict[str, torch.Tensor]
_WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_INDEXED = re.compile(r"head(\d+)$")


def export_weights(
    module: CompiledModel, layout: Literal["vissl", "torchvision", "timm"], *, trunk: str | None = None
) -> Tensors:
    """The weights of a compiled module under other names.

    Args:
        module: the module; its tensors are shared, not copied.
        layout: `vissl` gives trunk and heads under VISSL's names (as `model.state_dict()` in VISSL does);
            `torchvision` and `timm` give a trunk under the library's own, for its `load_state_dict(strict=False)`.
        trunk: which trunk, where there are several.

    Returns:
        A state dict. Stages that this module does without are not in it.

    Raises:
        CompileError: GM513 where the trunk is not that library's, has no names in VISSL, or is not said.
    """
    graph = module.model_graph
    component = _trunk(graph, trunk)
    state: Tensors = module.state_dict()
    prefix = f"{component.name}."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if layout != "vissl":
        library = library_of(component)
        if library != layout:
            raise _failed(f"the trunk `{component.family}` is {library}'s, not {layout}'s", f"use `layout={library!r}`")
        return own
    return {**_vissl_trunk(component, own, _is_extractor(graph)), **_vissl_heads(graph, state)}


def library_of(component: Component) -> str:
    """`torchvision`, `timm`, or the package that the trunk's class comes from."""
    for kind in type(component.meta).__mro__:
        package = kind.__module__.partition(".")[0]
        if package not in ("graphmodel", "builtins", "torch"):
            return package
    return "graphmodel"


def _trunk(graph: ModelGraph, name: str | None) -> Component:
    trunks = [c for c in graph.components.values() if c.kind == "trunk"]
    found = [c for c in trunks if name is None or c.name in (name, f"trunks.{name}")]
    if len(found) != 1:
        names = ", ".join(c.name for c in trunks)
        raise _failed("say which trunk to export" if found else f"there is no trunk `{name}`", f"trunks: {names}")
    return found[0]


def _vissl_trunk(component: Component, own: Tensors, extractor: bool) -> Tensors:
    family = find_trunk(component.family)
    if family is None:
        raise _failed(f"the trunk `{component.family}` has no names in VISSL", "export it in its library's layout")
    start = "trunk.base_model." if extractor else "trunk."
    out: Tensors = {}
    for key, tensor in own.items():
        theirs = family.to_vissl_key(key, component.params)
        if theirs is not None:
            out[f"{start}{theirs}"] = tensor
    return family.to_vissl_tensors(out, component.params)


def _vissl_heads(graph: ModelGraph, state: Tensors) -> Tensors:
    out: Tensors = {}
    indexed = all(_INDEXED.match(name) for name in graph.spec.heads)
    nested = _nested_heads(graph)
    for position, (name, head) in enumerate(graph.spec.heads.items()):
        match = _INDEXED.match(name)
        index = int(match.group(1)) if indexed and match else position
        for key, tensor in state.items():
            if not key.startswith(f"heads.{name}."):
                continue
            inner = key.removeprefix(f"heads.{name}.")
            for ours, theirs in _WEIGHT_NORM.items():
                inner = inner.removesuffix(ours) + theirs if inner.endswith(ours) else inner
            if len(head.chain) > 1 and not nested:
                out[f"heads.{inner}"] = tensor  # a flat list: each module of the chain is a head of VISSL's
            elif len(head.chain) == 1 and nested:
                out[f"heads.{index}.0.{inner}"] = tensor
            else:
                out[f"heads.{index}.{inner}"] = tensor
    return out


def _nested_heads(graph: ModelGraph) -> bool:
    """Whether VISSL's list of heads holds lists: as the file says, or where several heads have chains."""
    origin = graph.spec.origin
    if graph.spec.dialect == "vissl":
        return read_context(origin, {}, Collector()).has_nested_heads
    return len(graph.spec.heads) > 1 and any(len(h.chain) > 1 for h in graph.spec.heads.values())


def _is_extractor(graph: ModelGraph) -> bool:
    """Whether VISSL would build this model's trunk as a frozen feature extractor, under `base_model.`."""
    if graph.spec.dialect != "vissl":
        return False
    return read_context(graph.spec.origin, {}, Collector()).is_extractor


def _failed(message: str, help: str) -> CompileError:
    return CompileError([Diagnostic("GM513", message, None, help)])
