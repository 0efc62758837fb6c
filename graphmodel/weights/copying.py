"""Plans which tensor is copied where; everything is checked before the first copy."""

from __future__ import annotations

from math import isqrt

import torch

from graphmodel.components.positions import Grid, grid_of, is_in_blocks, is_position_embedding, resize
from graphmodel.diagnostics import CompileError, Diagnostic
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.module import CompiledModel
from graphmodel.weights.choosing import Choice, same_values
from graphmodel.weights.report import LoadReport, WrongShape

Copies = list[tuple[torch.Tensor, torch.Tensor]]
MAX_FINDINGS = 8


def plan(
    module: CompiledModel,
    own: dict[str, torch.Tensor],
    choice: Choice,
    skip: tuple[str, ...],
    interpolate: bool | tuple[int, int],
    antialias: bool,
) -> tuple[Copies, LoadReport]:
    """What to copy where, and the report of it; nothing is changed.

    Args:
        module: the module that is filled.
        own: its tensors by key.
        choice: the reading of the checkpoint.
        skip: keys that contain one of these are left out.
        interpolate: whether to resize position embeddings, or the checkpoint's own grid.
        antialias: whether to resize with antialiasing.

    Raises:
        CompileError: GM515 if a tensor cannot be copied: sparse, quantised, nested, without data, or not real numbers.
    """
    reading = choice.reading
    text = reading.description if reading.layout == "several" else f"{reading.description} ({reading.state.name})"
    report = LoadReport(text, ordered=reading.layout == "order", warnings=[choice.warning] if choice.warning else [])
    report.copied = dict(reading.copied)
    copies: Copies = []
    refused: list[Diagnostic] = []
    infinite: list[str] = []
    negative: list[str] = []
    for key, tensor in reading.state.tensors.items():
        ours = reading.keys.get(key)
        if any(s in key for s in skip):
            report.skipped.append(key)
        elif key in reading.duplicates:
            report.duplicates.append(key)
        elif ours is None:
            report.unexpected.append(key)
        elif ours not in own:
            report.pruned.append(key)
        elif (why := _obstacle(tensor, own[ours])) is not None:
            refused.append(Diagnostic("GM515", f"`{key}` cannot be loaded into `{ours}`: {why}", None, _HELP))
        else:
            target = own[ours]
            resized = _resized(module, ours, tensor, target.shape, interpolate, antialias, report)
            if resized is not None:
                report.resized.append(ours)
                tensor = resized
            if target.shape != tensor.shape:
                report.wrong_shape.append(WrongShape(key, ours, tuple(tensor.shape), tuple(target.shape)))
                continue
            if not _is_finite(tensor, target):
                infinite.append(key)
            if ours.endswith(".running_var") and bool((tensor < 0).any()):
                negative.append(key)
            report.matched[ours] = key
            report.parameters += tensor.numel()
            copies.append((target, tensor))
    if refused:
        raise CompileError(_first(refused))
    required = [k for k, v in own.items() if v.is_floating_point() or v.is_complex()]
    report.total = len(required)
    report.missing = [k for k in required if k not in report.matched]
    report.deeper = reading.deeper(own)
    report.warnings += _contradictions(choice, report)
    report.warnings += _of_another_variant(module, own, choice)
    if infinite:
        report.warnings.append(_warning(f"{len(infinite)} tensors have values that are not finite: {_shown(infinite)}"))
    if negative:
        report.warnings.append(_warning(f"{len(negative)} variances have negative values: {_shown(negative)}"))
    return copies, report


_HELP = "save it as a dense tensor of floating-point numbers, or name it in the spec's `weights.skip`"


def _obstacle(tensor: torch.Tensor, target: torch.Tensor) -> str | None:
    """Why a tensor cannot be copied into another, or None."""
    kind = type(tensor).__name__
    if kind not in ("Tensor", "Parameter", "Buffer"):
        return f"it is a {kind}; gather it into a plain tensor first"
    if tensor.is_nested:
        return "it is a nested tensor"
    if tensor.layout != torch.strided:
        return f"it is sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"it is quantised ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_meta:
        return "it has no data (it is on the meta device)"
    if target.is_floating_point() and not tensor.is_floating_point():
        return f"its numbers are {str(tensor.dtype).removeprefix('torch.')}, not floating-point"
    if not target.is_complex() and tensor.is_complex():
        return f"its numbers are complex ({str(tensor.dtype).removeprefix('torch.')})"
    return None


def _is_finite(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether every value is finite in the target's dtype; a mask that is infinite in the model may be so here."""
    if not target.is_floating_point():
        return True
    if bool(torch.isfinite(tensor.to(target.dtype)).all()):
        return True
    return not target.is_meta and not bool(torch.isfinite(target).all())


def _resized(
    module: CompiledModel,
    ours: str,
    tensor: torch.Tensor,
    shape: torch.Size,
    interpolate: bool | tuple[int, int],
    antialias: bool,
    report: LoadReport,
) -> torch.Tensor | None:
    """A position embedding resized to the model's grid, or None if the tensor is to be copied as it is."""
    if not interpolate or not is_position_embedding(ours):
        return None
    component = next((c for c in module.model_graph.components.values() if ours.startswith(f"{c.name}.")), None)
    if component is None:
        return None
    name = ours.removeprefix(f"{component.name}.")
    if is_in_blocks(component.meta, name):
        return None
    images = _images_of(module.model_graph, component.name)
    grid = grid_of(component.meta, name, shape[1], images) if len(shape) == 3 else None
    stored: Grid | None = interpolate if isinstance(interpolate, tuple) else None
    if tensor.shape == shape:
        if stored is None:
            _note_guess(ours, shape, grid, report)
            return None
        if stored == grid:
            return None
    return resize(tensor, shape, grid, stored, antialias)


def _images_of(graph: ModelGraph, component: str) -> set[Grid]:
    """Heights and widths of the images that a trunk reads."""
    calls = [name for name, node in graph.nodes.items() if node.component == component]
    read = [graph.inputs[name] for name in graph.needed_by(calls) if name in graph.inputs]
    shapes = [shape for item in read for shape in item.views or (item.shape,)]
    return {(shape[1], shape[2]) for shape in shapes if shape is not None and len(shape) == 3}


def _note_guess(ours: str, shape: torch.Size, grid: Grid | None, report: LoadReport) -> None:
    """As many patches as the model has may still be another grid: 8x8 and 4x16."""
    if grid is None or grid[0] == grid[1] or isqrt(grid[0] * grid[1]) ** 2 != grid[0] * grid[1]:
        return
    side = isqrt(grid[0] * grid[1])
    report.warnings.append(
        _warning(
            f"`{ours}` has as many patches as the model's {grid[0]}x{grid[1]} grid and was copied as it is",
            f"if the checkpoint's grid is {side}x{side}, pass `interpolate=({side}, {side})`",
        )
    )


def _contradictions(choice: Choice, report: LoadReport) -> list[Diagnostic]:
    """A warning for keys that name one tensor and hold different values."""
    if choice.warning is not None:
        return []
    tensors = choice.reading.state.tensors
    different = [
        f"{key}` and `{taken}"
        for key, taken in choice.reading.duplicates.items()
        if taken in report.matched.values() and not same_values(tensors[key], tensors[taken])
    ]
    if not different:
        return []
    return [_warning(f"{len(different)} tensors are given twice with different values: {_shown(different)}")]


DERIVED = {"attn_mask", "relative_coords_table"}
"""Floating-point buffers of published files that the libraries compute anew."""


def _of_another_variant(module: CompiledModel, own: dict[str, torch.Tensor], choice: Choice) -> list[Diagnostic]:
    """A warning for weights of layers or parts that the trunk lacks: a deeper network, or layer scale."""
    kept = set()
    for component in module.model_graph.components.values():
        start = f"{component.name}."
        kept |= {start + k.removeprefix(start).partition(".")[0] for k in own if k.startswith(start)}
    tensors = choice.reading.state.tensors
    # VISSL's names are translated also if a trunk has no such part; only the number of its layers says more.
    unknown = choice.reading.unknown if choice.reading.layout != "vissl" else {}
    lost = [
        key
        for key, ours in unknown.items()
        if any(ours.startswith(f"{child}.") for child in kept)
        and tensors[key].is_floating_point()
        and ours.rpartition(".")[2] not in DERIVED
    ]
    if not lost:
        return []
    message = f"{len(lost)} tensors of the checkpoint belong to layers or parts that the trunk does not have"
    return [_warning(f"{message}: {_shown(lost)}", "it may be a deeper network or another variant of this one")]


def _warning(message: str, help: str = "") -> Diagnostic:
    return Diagnostic("GM517", message, None, help or "check the checkpoint before you use the model", "warning")


def _first(findings: list[Diagnostic]) -> list[Diagnostic]:
    if len(findings) <= MAX_FINDINGS:
        return findings
    more = Diagnostic("GM515", f"{len(findings) - MAX_FINDINGS} more tensors cannot be loaded", None, _HELP)
    return [*findings[:MAX_FINDINGS], more]


def _shown(keys: list[str]) -> str:
    return ", ".join(f"`{k}`" for k in keys[:4]) + (", …" if len(keys) > 4 else "")
