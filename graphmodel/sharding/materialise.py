"""Builds the weights of a module that is on the meta device, each process only the shards that it holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from graphmodel.components.construct import is_meta, seeded
from graphmodel.diagnostics import fail, first_line
from graphmodel.graph.types import Component, ModelGraph
from graphmodel.lower.materialise import graft, initial_seed
from graphmodel.lower.module import CompiledModel, check_of_spec
from graphmodel.sharding.plan import check_compiled, shard_plan
from graphmodel.sharding.recording import CannotRecord, record


def materialise(
    meta_module: CompiledModel,
    *,
    mesh: Any = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
) -> CompiledModel:
    """Builds the weights of a module that was compiled for the meta device, in place.

    After `fully_shard`, each process makes one parameter at a time and keeps its shard, so that it never holds a copy
    of the model. The numbers are those of `compile(spec, seed=seed)` in a single process. A constructor that reads its
    own random numbers cannot be taken apart: its component is built whole, with a warning, and then sharded.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.materialise(graphmodel.compile(spec, device="meta"), seed=0)
        >>> torch.equal(model.trunk.conv1.weight, graphmodel.compile(spec, seed=0).trunk.conv1.weight)
        True

        On every process of a group::

            model = graphmodel.compile(spec, device="meta")
            for stage in graphmodel.shard_plan(model):
                fully_shard(stage, mesh=mesh)
            fully_shard(model, mesh=mesh)
            graphmodel.materialise(model, seed=0)

    Args:
        meta_module: what `compile(…, device="meta")` returned, sharded or not.
        mesh: the device mesh. A module that is not sharded yet is sharded over it, as `shard_plan` says. None takes the
            module as it is.
        seed: as for `compile`; None takes the seed that the module was compiled with, of the first process if they
            differ.
        device: where the weights go; None is the device of the mesh, or the CPU.

    Returns:
        The same module.

    Raises:
        CompileError: GM575 if it is not a compiled module, GM576 if its weights are there already or cannot be made, or
            if it has parameters that the spec's components do not have, GM577 if the mesh is not valid or not the one
            that the module is sharded over, GM561 if the module was made by `optimize_for_inference`.
    """
    check_compiled(meta_module, "materialise")
    check_of_spec(meta_module, "weights cannot be made for")
    graph = meta_module.model_graph
    _check_components(meta_module, graph)
    meshes = [mesh] if mesh is not None else []
    if mesh is not None:
        _shard(meta_module, mesh)
    meshes += [p.device_mesh for p in meta_module.parameters() if hasattr(p, "device_mesh")][:1]
    recorded = int(meta_module.meta["graphmodel"]["seed"])
    agreed = seed if seed is not None else _of_first_process(recorded, meshes[0]) if meshes else recorded
    place = torch.device(device) if device is not None else _device_of(meshes[0]) if meshes else torch.device("cpu")
    empty = [name for name, tensor in _named_tensors(meta_module) if tensor.is_meta]
    _allocate(meta_module, place)
    filled: set[int] = set()
    for name in graph.called_components():
        if not graph.components[name].given:
            filled |= _fill(meta_module, graph, graph.components[name], agreed)
    tensors = dict(_named_tensors(meta_module))
    for name in empty:
        if id(tensors[name]) not in filled:
            message = (
                f"nothing says how to initialise `{name}`, which was added or changed after the model was compiled"
            )
            raise fail("GM576", message, help="call `materialise` first, then change the module")
    meta_module.meta["graphmodel"] = {**meta_module.meta["graphmodel"], "seed": agreed}
    return meta_module


def _check_components(module: CompiledModel, graph: ModelGraph) -> None:
    """Refuses modules that have weights, and components that cannot be built.

    Raises:
        CompileError: GM576.
    """
    help = 'compile the spec for the meta device: `graphmodel.compile(spec, device="meta")`'
    for name in graph.called_components():
        component = graph.components[name]
        place = module.get_submodule(name)
        if component.given:
            if is_meta(place):
                message = f"`{name}` is a module that was given, and nothing says how to initialise it"
                raise fail("GM576", message, help="give it with its weights")
        elif any(not p.is_meta for p in place.parameters()):
            raise fail("GM576", f"`{name}` has its weights already", help=help)
        elif getattr(component.build, "__name__", "") == "_built_already":
            raise fail("GM576", f"`{name}` cannot be built in a module that was copied by pickle", help=help)


def _shard(module: CompiledModel, mesh: Any) -> None:
    """Shards a module over a mesh, unless it is sharded over it already.

    Raises:
        CompileError: GM577.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    if not isinstance(mesh, DeviceMesh):
        message = f"`mesh` takes a `DeviceMesh`, not {type(mesh).__name__}"
        raise fail("GM577", message, help="make one with `torch.distributed.device_mesh.init_device_mesh`")
    meshes = {p.device_mesh for p in module.parameters() if hasattr(p, "device_mesh")}
    if meshes - {mesh}:
        message = "the module is sharded over another mesh"
        raise fail("GM577", message, help="leave `mesh` out: the shards know theirs")
    if not meshes:
        for stage in shard_plan(module):
            fully_shard(stage, mesh=mesh)
        fully_shard(module, mesh=mesh)


def _device_of(mesh: Any) -> torch.device:
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def _of_first_process(seed: int, mesh: Any) -> int:
    """The seed of the first process of a mesh: shards of models with different seeds do not belong together."""
    import torch.distributed as dist

    agreed = torch.tensor(seed, device=_device_of(mesh))
    for dim in range(mesh.ndim):
        group = mesh.get_group(dim)
        dist.broadcast(agreed, src=dist.get_process_group_ranks(group)[0], group=group)
    return int(agreed)


def _allocate(module: nn.Module, device: torch.device) -> None:
    """Gives memory to what is on the meta device; parameters with several names stay one."""
    names: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append((part, name))
    module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)  # type: ignore[no-untyped-call]
    for (first, name), *others in names.values():
        for part, other in others:
            part._parameters[other] = first._parameters[name]


def _fill(module: CompiledModel, graph: ModelGraph, component: Component, seed: int) -> set[int]:
    """Initialises a component, one parameter at a time, and returns the ids of its tensors."""
    with seeded(initial_seed(seed, component)):
        try:
            built, recording = record(component.build)
            values: Callable[[torch.Tensor], torch.Tensor] = recording.value
            return _copy(module, _grafted(graph, component, built), values)
        except CannotRecord as error:
            message = f"`{component.name}` is initialised whole: {first_line(error)}"
            warnings.warn(message, stacklevel=4)
    with seeded(initial_seed(seed, component)):
        built = component.build()
    return _copy(module, _grafted(graph, component, built), lambda tensor: tensor)


def _grafted(graph: ModelGraph, component: Component, built: nn.Module) -> nn.Module:
    """What the graph calls of a component, under the names of the model."""
    root = nn.Module()
    nodes = [n for n in graph.nodes.values() if n.component == component.name and n.call in ("module", "attribute")]
    graft(root, component.name, built, [str(n.target) for n in nodes], component.extras)
    return root


def _copy(module: nn.Module, source: nn.Module, value: Callable[[torch.Tensor], torch.Tensor]) -> set[int]:
    """Copies parameters and buffers of a source to those of the same name, each process its shards.

    Returns:
        The ids of the tensors that were copied to.
    """
    filled: set[int] = set()
    targets = dict(module.named_modules(remove_duplicate=False))
    for name, tensor in _named_tensors(source):
        holder, _, leaf = name.rpartition(".")
        owner = targets.get(holder)
        target: Any = owner._parameters.get(leaf, owner._buffers.get(leaf)) if owner is not None else None
        if target is None or id(target) in filled or target.shape != tensor.shape:
            continue
        filled.add(id(target))
        with torch.no_grad():
            made = value(tensor) if tensor.is_meta else tensor.detach()
            if hasattr(target, "device_mesh"):
                from torch.distributed.tensor import distribute_tensor

                shard = distribute_tensor(made, target.device_mesh, target.placements, src_data_rank=None)
                target.to_local().copy_(shard.to_local())
            else:
                target.copy_(made)
    return filled


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
