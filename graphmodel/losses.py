"""Losses of many outputs at once: `fused_cross_entropy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

from graphmodel.components.fused import joined_result
from graphmodel.diagnostics import choices_help, fail

MAX_COPIED = 4_096
"""Logits of one output that are copied to be computed with others; larger ones are computed one by one."""

Tensors = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]


def fused_cross_entropy(
    outputs: Tensors,
    labels: torch.Tensor | Tensors,
    *,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    label_smoothing: float = 0.0,
    total: bool = False,
) -> Any:
    """The cross-entropy of each output, computed by one kernel for all outputs of a shape.

    Each loss is what `torch.nn.functional.cross_entropy` gives for that output alone. Outputs that the pass
    `fuse_heads` computed together are read where they are; others are copied into one tensor first, or computed one by
    one if they are large, which is faster. As soon as one of the losses is used, every output gets a gradient (of zeros
    if its own loss is not used). To read or change the gradient of an output itself, call `retain_grad` or
    `register_hook` before this function.

    Example:
        >>> import graphmodel, torch
        >>> outputs = {name: torch.randn(4, 10, requires_grad=True) for name in ("small_lr", "large_lr")}
        >>> losses = graphmodel.fused_cross_entropy(outputs, torch.tensor([1, 0, 9, 3]))
        >>> {name: tuple(loss.shape) for name, loss in losses.items()}
        {'small_lr': (), 'large_lr': ()}
        >>> graphmodel.fused_cross_entropy(outputs, torch.tensor([1, 0, 9, 3]), total=True).backward()

    Args:
        outputs: logits by name, or a sequence of them, each `(N, classes)`.
        labels: class indices `(N,)` or class probabilities `(N, classes)` for all outputs, or one such tensor for each
            output: by name, or in the order of the outputs.
        weight: weights of the classes, `(classes,)`, for all outputs.
        ignore_index: the class index that counts for nothing.
        reduction: `mean`, `sum`, or `none` for the losses of the samples.
        label_smoothing: between 0 and 1.
        total: return the sum of all losses instead. With many outputs adding them one by one costs more than
            computing them.

    Returns:
        The losses in the form of `outputs`: a dict by name, or a list. A tensor if `total` is true.

    Raises:
        CompileError: GM570 if an output is not a tensor `(N, classes)`, GM571 if `labels` do not fit the outputs,
            GM572 if `reduction` is not one of the three, or is `none` together with `total`.
    """
    if reduction not in ("mean", "sum", "none"):
        raise fail("GM572", f"`{reduction}` is not a valid reduction", help="use `mean`, `sum` or `none`")
    if total and reduction == "none":
        raise fail("GM572", "there is no total of losses without a reduction", help="use `mean` or `sum`")
    if not isinstance(outputs, (Mapping, Sequence)) or isinstance(outputs, str):
        given = "one tensor" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        message = f"the loss takes outputs by name, or a list of them, not {given}"
        raise fail("GM570", message, help="use `torch.nn.functional.cross_entropy` for a single output")
    named = isinstance(outputs, Mapping)
    names: list[Any] = list(outputs) if named else list(range(len(outputs)))
    logits: list[torch.Tensor] = list(outputs.values() if isinstance(outputs, Mapping) else outputs)
    shared = isinstance(labels, torch.Tensor)
    targets = [labels] if isinstance(labels, torch.Tensor) else _own_labels(labels, names, named)
    joined = _joined(logits)
    # Outputs that were computed together are alike: looking at a hundred of them costs as much as their loss.
    alike = joined is not None and shared
    groups: list[Sequence[int]] = [range(len(logits))] if alike else _groups(names, logits, targets)
    _check_labels(names, logits, targets, groups)
    losses: list[torch.Tensor] = list(logits)
    totals = []
    settings: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    for members in groups:
        target = targets[0] if shared else torch.stack([targets[i] for i in members])
        if len(groups) > 1:
            joined = _joined([logits[i] for i in members])
        if joined is None and _is_large(logits[members[0]]):
            single = [
                F.cross_entropy(logits[i], targets[0 if shared else i], reduction=reduction, **settings)
                for i in members
            ]
            _replace(losses, members, single)
            totals += single
            continue
        if joined is None:
            joined = torch.cat([logits[i] for i in members])
        result = _of_group(joined.view(len(members), *logits[members[0]].shape), target, reduction, settings)
        if total:
            totals.append(result.sum())
            continue
        _replace(losses, members, result.unbind())
    if total:
        return torch.stack(totals).sum() if len(totals) > 1 else totals[0]
    return dict(zip(names, losses, strict=True)) if named else losses


def _is_large(logits: torch.Tensor) -> bool:
    """Whether copying an output takes longer than a kernel of its own; not asked while a compiler fuses both."""
    return not torch.compiler.is_compiling() and logits.numel() > MAX_COPIED


def _replace(losses: list[torch.Tensor], members: Sequence[int], new: Sequence[torch.Tensor]) -> None:
    for i, loss in zip(members, new, strict=True):
        losses[i] = loss


def _own_labels(labels: Any, names: list[Any], named: bool) -> list[torch.Tensor]:
    """The labels of each output."""
    listed = isinstance(labels, (Mapping, Sequence)) and not isinstance(labels, str)
    if not listed or isinstance(labels, Mapping) != named or len(labels) != len(names):
        form = f"a mapping of these names: {', '.join(map(str, names))}" if named else f"a list of {len(names)} tensors"
        raise fail("GM571", f"the labels do not match the outputs, which take one tensor or {form}")
    for name in names if named else ():
        if name not in labels:
            message = f"there are no labels for the output `{name}`"
            raise fail("GM571", message, help=choices_help(str(name), [str(n) for n in labels], "labels"))
    for name in names:
        if not isinstance(labels[name], torch.Tensor):
            kind = type(labels[name]).__name__
            raise fail("GM571", f"the labels of the output `{name}` are of the type {kind}, not a tensor")
    return [labels[name] for name in names]


def _groups(names: list[Any], logits: list[torch.Tensor], targets: list[torch.Tensor]) -> list[Sequence[int]]:
    """Positions of the outputs that one kernel computes; `targets` has one item if all share it."""
    keys: list[Any] = []
    for i, tensor in enumerate(logits):
        if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2:
            given = f"of shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            message = f"the output `{names[i]}` is {given}, and the loss takes logits of shape (N, classes)"
            raise fail("GM570", message)
        keys.append((tensor.shape, tensor.dtype, tensor.device))
    if not keys:
        raise fail("GM570", "there are no outputs to compute a loss of")
    if len(targets) > 1:
        keys = [(*key, target.shape, target.dtype) for key, target in zip(keys, targets, strict=True)]
    if keys.count(keys[0]) == len(keys):
        return [range(len(keys))]
    found: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return list(found.values())


def _check_labels(
    names: list[Any], logits: list[torch.Tensor], targets: list[torch.Tensor], groups: Sequence[Sequence[int]]
) -> None:
    for members in groups:
        i = members[0]
        shape, target = logits[i].shape, targets[i if len(targets) > 1 else 0]
        if target.shape not in (shape[:1], shape):
            message = f"the labels of the output `{names[i]}` are of shape {tuple(target.shape)}"
            expected = f"class indices {tuple(shape[:1])} or class probabilities {tuple(shape)}"
            raise fail("GM571", message, help=f"logits of shape {tuple(shape)} take {expected}")
        if target.dim() == 2 and not target.is_floating_point():
            message = f"the labels of the output `{names[i]}` are probabilities of dtype {target.dtype}"
            raise fail("GM571", message, help="class probabilities are floating-point numbers: use `labels.float()`")


def _joined(logits: list[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that outputs are parts of, `(outputs * N, classes)`."""
    if not logits or torch.compiler.is_compiling() or not isinstance(logits[0], torch.Tensor):
        return None
    joined = joined_result(logits)
    return joined if joined is not None and joined.dim() == 2 else None


def _of_group(logits: torch.Tensor, target: torch.Tensor, reduction: str, settings: dict[str, Any]) -> torch.Tensor:
    """The losses of logits `(outputs, N, classes)`, `(outputs,)` or `(outputs, N)`; `target` may be one for all."""
    count, rows, classes = logits.shape
    probabilities = target.shape[-1] == classes and target.is_floating_point()
    own = target.dim() == (3 if probabilities else 2)
    spread = target if own else target.expand(count, *target.shape)
    flat = F.cross_entropy(logits.flatten(0, 1), spread.flatten(0, 1), reduction="none", **settings)
    losses = flat.view(count, rows)
    if reduction == "none":
        return losses
    # The sum of many losses in half precision would overflow at 65,504.
    high = torch.promote_types(losses.dtype, torch.float32)
    summed = losses.sum(1, dtype=high)
    if reduction == "mean":
        summed = summed / (rows if probabilities else _counted(target, settings, high))
    return summed.to(losses.dtype)


def _counted(target: torch.Tensor, settings: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """The number of labels that count, or the sum of their weights."""
    weight: torch.Tensor | None = settings["weight"]
    valid: torch.Tensor = target != settings["ignore_index"]
    if weight is None:
        return valid.sum(-1)
    # An index of bytes would be read as a mask.
    return (weight[target.where(valid, 0).long()] * valid).sum(-1, dtype=dtype)
