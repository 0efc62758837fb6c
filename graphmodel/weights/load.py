"""Loads weights into a compiled module and says what went where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import CompileError, Diagnostic
from graphmodel.lower.module import CompiledModel
from graphmodel.weights.matching import KeyMap, drop_skipped, infer
from graphmodel.weights.reading import StateDict, read_checkpoint, state_dicts


@dataclass(frozen=True)
class WrongShape:
    """A tensor whose shape differs: its key in the checkpoint, ours, both shapes."""

    key: str
    ours: str
    shape: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass
class LoadReport:
    """What a load did.

    Attributes:
        source: which state dict of the checkpoint was taken, and how its keys were read.
        matched: our key and the checkpoint's, of everything that was copied.
        resized: position embeddings that were interpolated, by our key.
        missing: our keys that the checkpoint does not have.
        unexpected: the checkpoint's keys that the model has no place for.
        pruned: the checkpoint's keys of stages that this model does without.
        wrong_shape: tensors that were left out because their shapes differ.
        parameters: numbers in the matched tensors.
    """

    source: str = ""
    matched: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    wrong_shape: list[WrongShape] = field(default_factory=list)
    parameters: int = 0

    def __str__(self) -> str:
        lines = [f"loaded {len(self.matched)} tensors ({self.parameters:,} numbers) by {self.source}"]
        for what, items in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of pruned stages", self.pruned),
            ("interpolated", self.resized),
        ):
            if items:
                shown = ", ".join(items[:6]) + (", …" if len(items) > 6 else "")
                lines.append(f"{len(items)} {what}: {shown}")
        lines += [f"wrong shape: {w.key} is {w.shape}, {w.ours} is {w.wanted}" for w in self.wrong_shape]
        return "\n".join(lines)


def load_weights(
    module: CompiledModel,
    source: str | Path | Mapping[str, Any] | None = None,
    *,
    dialect: Literal["vissl"] | None = None,
    partial: bool = False,
    interpolate: bool = False,
) -> LoadReport:
    """Loads a checkpoint into a compiled module; the way from its keys to ours is inferred and reported.

    Args:
        module: the module; its tensors are changed in place.
        source: a file (safetensors, or a torch file without code), or a mapping in memory; the spec's own `weights`
            file where None.
        dialect: `vissl` takes the keys as VISSL's and tries nothing else.
        partial: accept a checkpoint that does not cover the whole trunk.
        interpolate: resize position embeddings of another size (bicubic).

    Returns:
        What was matched, missing, unexpected, of another shape.

    Raises:
        CompileError: GM510 where the file cannot be read, GM511 where nothing matches, GM512 where the trunk is not
            covered and `partial` is not set.
    """
    graph = module.model_graph
    weights = graph.spec.weights
    if source is None:
        if weights is None or not weights.file:
            raise _failed("GM510", "no checkpoint was given and the spec names none", "pass a file or a mapping")
        source = weights.file
    found = state_dicts(read_checkpoint(source))
    own = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    own = {k: v for k, v in own.items() if k in module.state_dict()}
    found = [_expanded(state, module) for state in found]
    chosen = infer(found, graph, {k: v.shape for k, v in own.items()}, weights, dialect)
    if chosen is None or not chosen.matches({k: v.shape for k, v in own.items()}):
        keys = [k for state in found for k in state.tensors][:4]
        raise _failed(
            "GM511",
            "no tensor of the checkpoint fits the model",
            f"its keys look like {', '.join(keys)}; the model's like {', '.join(list(own)[:4])}"
            if keys
            else "the checkpoint holds no tensors",
        )
    return _copy(module, own, chosen, weights.skip if weights is not None else (), partial, interpolate)


def _expanded(state: StateDict, module: CompiledModel) -> StateDict:
    """A state dict whose tensors a family splits or reshapes into the library's own form."""
    tensors = state.tensors
    for component in module.model_graph.components.values():
        family = find_trunk(component.family) if component.kind == "trunk" else None
        if family is not None:
            tensors = family.from_vissl_tensors(tensors, component.params)
    return StateDict(state.path, tensors)


def _copy(
    module: CompiledModel,
    own: dict[str, torch.Tensor],
    chosen: KeyMap,
    skip: tuple[str, ...],
    partial: bool,
    interpolate: bool,
) -> LoadReport:
    report = LoadReport(f"{chosen.description} ({chosen.source.name})")
    everything = {f"{c.name}.{k}" for c in module.model_graph.components.values() for k in c.meta.state_dict()}
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    tensors = drop_skipped(chosen.source.tensors, skip)
    for key, tensor in tensors.items():
        ours = chosen.keys.get(key)
        if ours is None or ours not in own:
            (report.pruned if ours in everything else report.unexpected).append(key)
            continue
        target = own[ours]
        if target.shape != tensor.shape and interpolate and "pos_embed" in ours.rsplit(".", 1)[-1]:
            tensor = resize_position_embedding(tensor, target.shape)
            report.resized.append(ours)
        if target.shape != tensor.shape:
            report.wrong_shape.append(WrongShape(key, ours, tuple(tensor.shape), tuple(target.shape)))
            continue
        report.matched[ours] = key
        report.parameters += tensor.numel()
        copies.append((target, tensor))
    optional = {k for k, v in own.items() if not v.is_floating_point()}
    report.missing = [k for k in own if k not in report.matched and k not in optional]
    lacking = [k for k in report.missing if k.startswith("trunk")]
    if lacking and not partial:
        shown = ", ".join(lacking[:4]) + (", …" if len(lacking) > 4 else "")
        wrong = "".join(f"; {w.key} is {w.shape}, wanted {w.wanted}" for w in report.wrong_shape[:2])
        raise _failed(
            "GM512",
            f"the checkpoint covers {len(report.matched)} of {len(own) - len(optional)} tensors and leaves "
            f"{len(lacking)} of the trunk without weights: {shown}{wrong}",
            "check that it is this trunk's; `partial=True` (`--partial`) loads what fits",
        )
    with torch.no_grad():
        for target, tensor in copies:
            if not target.is_meta:
                target.copy_(tensor)
    return report


def resize_position_embedding(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A `(1, tokens, C)` position embedding for another number of patches, bicubic; prefix tokens are kept.

    Returns the tensor as it is where the sizes are no square grids with the same number of prefix tokens.
    """
    if tensor.ndim != 3 or len(shape) != 3 or tensor.shape[2] != shape[2]:
        return tensor
    for prefix in (0, 1, 2):
        old, new = tensor.shape[1] - prefix, shape[1] - prefix
        a, b = int(old**0.5), int(new**0.5)
        if a * a == old and b * b == new:
            head, grid = tensor[:, :prefix], tensor[:, prefix:]
            grid = grid.reshape(1, a, a, -1).permute(0, 3, 1, 2).float()
            grid = torch.nn.functional.interpolate(grid, size=(b, b), mode="bicubic", align_corners=False)
            return torch.cat([head, grid.permute(0, 2, 3, 1).reshape(1, new, -1).to(tensor.dtype)], 1)
    return tensor


def _failed(code: str, message: str, help: str) -> CompileError:
    return CompileError([Diagnostic(code, message, None, help)])
