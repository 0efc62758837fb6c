"""Builds the components for real, each under a seed of its own, and grafts what the graph calls under one root."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from graphmodel.components.construct import component_seed, meta_copy, seeded
from graphmodel.graph.types import Component, ModelGraph, path_inside
from graphmodel.lower.containers import Container, HeadsContainer


def build_modules(graph: ModelGraph, device: torch.device, seed: int, *, move_given: bool = True) -> nn.Module:
    """A root module whose children are the trunk stages and heads that the graph calls, and nothing else.

    Args:
        graph: the graph after its passes.
        device: where the weights go; on `meta` none are built.
        seed: the seed that every component derives its own stream from.
        move_given: modules that the caller gave go to `device` too.

    Returns:
        The root, in training mode.
    """
    root = nn.Module()
    for name in graph.called_components():
        component = graph.components[name]
        if component.given:
            module = component.build()
        elif device.type == "meta":
            module = meta_copy(component.meta)  # the graph's own must stay on meta, unwrapped
        else:
            with seeded(initial_seed(seed, component)):
                module = component.build()
        targets = [
            str(n.target) for n in graph.nodes.values() if n.component == name and n.call in ("module", "attribute")
        ]
        graft(root, name, module, targets, component.extras)
        if not component.given or move_given:
            container(root, name).to(device)
    return root.train()


def initial_seed(seed: int, component: Component) -> int:
    """The seed of a component's initial weights: a copy draws the numbers of its original."""
    return component_seed(seed, component.copy_of or component.name)


def graft(
    root: nn.Module,
    component: str,
    module: nn.Module,
    targets: Iterable[str],
    extras: Mapping[str, nn.Module | torch.Tensor] | None = None,
) -> None:
    """Puts the called parts of `module` under `root`, in the module's own order and under its own names.

    Containers between the root and a part are plain modules; a head is put in whole. `extras` are parts that the module
    itself does not have.
    """
    extras = extras or {}
    inner = dict.fromkeys(path_inside(t, component) for t in targets)
    if "" in inner:
        attach(root, component, module)
        return
    kept = kept_in_eval(module, inner)
    for path, _ in module.named_modules():
        if path in inner:
            attach(root, f"{component}.{path}", module.get_submodule(path))
    if kept:
        top = container(root, component)
        assert isinstance(top, Container)
        top.kept_in_eval = kept
    # Tensors keep the order of the library's own `state_dict`, whatever order the calls read them in.
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    own = {name: place for place, (name, _) in enumerate(tensors)}
    for path in sorted(inner, key=lambda path: own.get(path, len(own))):
        extra = extras.get(path)
        if isinstance(extra, nn.Module):
            attach(root, f"{component}.{path}", copy.deepcopy(extra))
            continue
        holder, _, leaf = path.rpartition(".")
        graft_tensor(module.get_submodule(holder), leaf, root, f"{component}.{holder}".rstrip("."), extra)


def kept_in_eval(module: nn.Module, called: Collection[str]) -> tuple[str, ...]:
    """Paths that the `train()` of a class keeps in eval mode, if what is called are parts of an object of that class.

    A container takes the object's place, and `train()` of the class, which freezes the statistics of BatchNorm in many
    detectors, would never run again.

    Args:
        module: a trunk or head.
        called: paths of the parts of it that are called.
    """
    opened = {"", *(path[:i] for path in called for i, c in enumerate(path) if c == ".")}
    plain = (nn.Module.train, Container.train)
    own = [m for path, m in module.named_modules() if path in opened and type(m).train not in plain]
    if not own:
        return ()
    module.train()
    return tuple(path for path, part in module.named_modules() if path and not part.training)


def graft_tensor(
    owner: nn.Module, leaf: str, root: nn.Module, holder: str, constant: torch.Tensor | None = None
) -> None:
    """Registers a parameter, buffer or constant of `owner` under the same name at a dotted path of `root`.

    Args:
        owner: the module that has it.
        leaf: its name there.
        root: the module that gets it.
        holder: the path of the container in `root`, made if it is missing.
        constant: used if `owner` has no attribute of that name.
    """
    if leaf in owner._parameters:
        container(root, holder).register_parameter(leaf, owner._parameters[leaf])
    elif leaf in owner._buffers:
        persistent = leaf not in owner._non_persistent_buffers_set
        container(root, holder).register_buffer(leaf, owner._buffers[leaf], persistent=persistent)
    elif isinstance(value := getattr(owner, leaf, constant), torch.Tensor):
        container(root, holder).register_buffer(leaf, value, persistent=False)


def attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers `module` at a dotted path, making plain containers on the way."""
    holder, _, leaf = path.rpartition(".")
    container(root, holder).add_module(leaf, module)


def container(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, made if it is missing."""
    current = root
    for part in path.split(".") if path else ():
        if part not in current._modules:
            current.add_module(part, HeadsContainer() if current is root and part == "heads" else Container())
        child = current._modules[part]
        assert child is not None
        current = child
    return current
