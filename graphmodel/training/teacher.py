"""Updates teachers, which are moving averages of what trains: `update_teacher`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from graphmodel.build.freeze_patterns import is_frozen, moving_norms
from graphmodel.components.positions import fitted, is_position_embedding
from graphmodel.diagnostics import choices_help, fail
from graphmodel.graph.copies import copies
from graphmodel.lower.module import CompiledModel
from graphmodel.lower.sharded import is_sharded
from graphmodel.training.wrapped import compiled_models


@torch.no_grad()
def update_teacher(module: nn.Module, momentum: float, *, pairs: Mapping[str, str] | None = None) -> None:
    """Moves the teachers of a model towards their students: `teacher = momentum * teacher + (1 - momentum) * student`.

    Parameters and buffers with floating-point numbers (BatchNorm statistics) are averaged, other buffers (counters)
    copied. A teacher for another image size follows the student's position embeddings resized to its own. BatchNorm of
    a teacher with `batchnorm: train` has statistics of its own, which stay as they are. Call it after the optimizer's
    step.

    Example:
        >>> import graphmodel, torch
        >>> trunks = {"student": {"name": "resnet", "depth": 18}, "teacher": {"copy": "student"}}
        >>> mapping = [{"from": f"images.{name}.flatten", "as": f"of_{name}"} for name in trunks]
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunks": trunks, "mapping": mapping}
        >>> model = graphmodel.compile(spec, seed=0)
        >>> with torch.no_grad():
        ...     _ = model.trunks.student.conv1.weight.zero_()
        >>> graphmodel.update_teacher(model, 0.0)
        >>> torch.equal(model.trunks.teacher.conv1.weight, model.trunks.student.conv1.weight)
        True

    Args:
        module: a compiled model, or a module that wraps or holds one (DDP, a LightningModule).
        momentum: how much of the teacher stays, between 0 and 1; usually 0.99 or more, rising to 1.
        pairs: student by teacher: names of trunks, of heads, or module paths of the model. If None, every frozen copy
            in the spec (`teacher: {copy: student}`) follows its original.

    Raises:
        CompileError: GM590 if there is no compiled model in `module`, GM592 if the momentum is not valid, a name is
            unknown, there is no pair, a teacher trains, or the two differ in their tensors.

    Source: Tarvainen & Valpola 2017 (mean teacher); He et al. 2020 (MoCo); timm's `ModelEmaV3`.
    """
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1:
        raise fail("GM592", f"`momentum` takes a number between 0 and 1, not {momentum!r}", path="momentum")
    averaged: list[torch.Tensor] = []
    towards: list[torch.Tensor] = []
    for model in compiled_models(module, "update_teacher").values():
        for part in model.modules():
            if is_sharded(part):
                part.reshard()  # type: ignore[operator]  # after a forward alone, whole parameters are in their place
        for mine, theirs in map(
            _local, _tensors(model, _of_spec(model) if pairs is None else pairs, part_of_student=pairs is None)
        ):
            if mine.is_floating_point() or mine.is_complex():
                averaged.append(mine)
                towards.append(theirs if theirs.dtype == mine.dtype else theirs.to(mine.dtype))
            else:
                mine.copy_(theirs)
    if not averaged:
        message = "the model has no teacher: the spec has no frozen copy, and no pairs are given"
        help = 'write `teacher: {copy: student}` in the spec, or pass `pairs={"teacher": "student"}`'
        raise fail("GM592", message, help=help, path="pairs")
    torch._foreach_lerp_(averaged, towards, 1 - momentum)


def _local(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The shards that this process holds of a teacher's tensor, and the same rows of the student's."""
    mine: Any
    theirs: Any
    mine, theirs = pair
    if hasattr(mine, "device_mesh"):
        if not hasattr(theirs, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            theirs = distribute_tensor(theirs.detach(), mine.device_mesh, mine.placements, src_data_rank=None)
        return mine.to_local(), theirs.redistribute(mine.device_mesh, mine.placements).to_local()
    return mine, theirs.full_tensor() if hasattr(theirs, "device_mesh") else theirs


def _of_spec(model: CompiledModel) -> dict[str, str]:
    """The original of each copy that the spec freezes."""
    graph = model.model_graph
    found = {}
    for copy, original in copies(graph).items():
        names = [name for name, _ in graph.components[copy].meta.named_parameters(prefix=copy)]
        if names and all(is_frozen(name, graph.frozen) for name in names):
            found[copy] = original
    return found


def _tensors(
    model: CompiledModel, pairs: Mapping[str, str], *, part_of_student: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The teacher's tensors with the student's.

    Args:
        model: the model.
        pairs: student by teacher.
        part_of_student: whether a teacher may have fewer tensors, as a copy of which no output needs the last stages.
    """
    moving = [module for _, module in moving_norms(model, model.model_graph.frozen)]
    own_statistics = {id(buffer) for module in moving for buffer in module.buffers()}
    for teacher, student in pairs.items():
        first, second = (_part(model, name) for name in (teacher, student))
        own, other = (dict((*part.named_parameters(), *part.named_buffers())) for part in (first, second))
        for name, tensor in own.items():
            if name in other:
                other[name] = _resized(other[name], name, tensor.shape, first, second)
        differing = [name for name in own if name not in other]
        differing += [name for name in other if name not in own and not part_of_student]
        differing += [name for name in own if name in other and own[name].shape != other[name].shape]
        if differing:
            message = f"`{teacher}` and `{student}` differ in `{differing[0]}`, so one is not the average of the other"
            raise fail("GM592", message, help="a teacher has the architecture of its student", path="pairs")
        trains = next((name for name, parameter in first.named_parameters() if parameter.requires_grad), None)
        if trains is not None:
            message = f"`{teacher}.{trains}` requires a gradient, and an optimizer would train it"
            raise fail("GM592", message, help=f"freeze the teacher `{teacher}`", path="pairs")
        yield from ((tensor, other[name]) for name, tensor in own.items() if id(tensor) not in own_statistics)


def _resized(
    tensor: torch.Tensor, name: str, shape: torch.Size, teacher: nn.Module, student: nn.Module
) -> torch.Tensor:
    """A student's position embedding for the image size of its teacher; any other tensor as it is."""
    if not is_position_embedding(name):
        return tensor
    source: Any = tensor
    whole: torch.Tensor = source.full_tensor() if hasattr(source, "device_mesh") else tensor
    found = fitted(whole, name, shape, teacher, student)
    return tensor if found is None or found is whole else found


def _part(model: CompiledModel, name: str) -> nn.Module:
    """The module of a trunk or of a head of that name, or at that path."""
    modules = dict(model.named_modules())
    for path in (f"trunks.{name}", f"heads.{name}", name):
        if path in modules and path:
            return model.get_submodule(path)
    known = [
        path.partition(".")[2] for path in modules if path.count(".") == 1 and path.startswith(("trunks.", "heads."))
    ]
    message = f"the model has no trunk, head or module `{name}`"
    raise fail("GM592", message, help=choices_help(name, known, "trunks and heads"), path="pairs")
