"""Writes a compiled module's weights under other names: VISSL's, or the trunk library's own."""

from __future__ import annotations

from typing import Literal

import torch

from graphmodel.build.vissl_state_dict_keys import VisslKeys
from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import fail
from graphmodel.graph.types import Component, ModelGraph
from graphmodel.lower.module import CompiledModel, check_compiled, check_of_spec

Tensors = dict[str, torch.Tensor]


def export_weights(
    module: CompiledModel, layout: Literal["vissl", "torchvision", "timm"], *, trunk: str | None = None
) -> Tensors:
    """The weights of a compiled module under other names.

    Example:
        >>> import graphmodel, torchvision
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> weights = graphmodel.export_weights(graphmodel.compile(spec, seed=0), "torchvision")
        >>> torchvision.models.resnet18().load_state_dict(weights, strict=False).missing_keys
        ['fc.weight', 'fc.bias']

    Args:
        module: the module; its tensors are shared, not copied.
        layout: `vissl` gives trunk and heads under VISSL's names (as `model.state_dict()` in VISSL does);
            `torchvision` and `timm` give a trunk under the library's own, for its `load_state_dict(strict=False)`.
        trunk: which trunk, if there are several.

    Returns:
        A state dict. Pruned stages are not in it.

    Raises:
        CompileError: GM513 if the trunk is not that library's, has no names in VISSL, or if there are several and
            `trunk` does not name one, GM561 if the module was made by `optimize_for_inference`.
    """
    check_compiled(module, "export_weights")
    check_of_spec(module, "weights cannot be exported from")
    graph = module.model_graph
    component = _trunk(graph, trunk)
    state: Tensors = module.state_dict()
    prefix = f"{component.name}."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if layout != "vissl":
        library = library_of(component)
        if library != layout:
            message = f"the trunk `{component.family}` is {library}'s, not {layout}'s"
            raise fail("GM513", message, help=f"use `layout={library!r}`")
        named: Tensors = component.meta.state_dict()  # has the versions that some classes ask for
        named.clear()
        named.update(own)
        return named
    names = VisslKeys(graph.spec, graph.components, state)
    heads = {theirs: state[ours] for ours, theirs in names.head_names(state)}
    return {**_vissl_trunk(component, own, names), **heads}


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
        message = "say which trunk to export" if found else f"unknown trunk `{name}`"
        raise fail("GM513", message, help=f"trunks: {names}")
    return found[0]


def _vissl_trunk(component: Component, own: Tensors, names: VisslKeys) -> Tensors:
    family = find_trunk(component.family)
    if family is None:
        message = f"the trunk `{component.family}` has no names in VISSL"
        raise fail("GM513", message, help="export it in its library's layout")
    out = {theirs: tensor for key, tensor in own.items() if (theirs := names.trunk_name(key, component)) is not None}
    return family.to_vissl_tensors(out, component.params)
