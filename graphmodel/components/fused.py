"""Runs heads of equal structure as one computation: the function that the pass `fuse_heads` puts in their place.

The heads keep their own parameters. At each call the weights are joined, multiplied once, and the product is divided
among the heads. A head that was changed since the model was compiled (it has a hook, or a LoRA layer, a
quantized layer or a sharded one took its place) makes all of them run one by one, as they would without the pass.
"""

# ruff: noqa: C419  (a list is gone through in half the time of a generator, and this runs at each call)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from graphmodel.components.heads.mlp import Mlp
from graphmodel.components.hooks import has_global_hooks

Layers = tuple[nn.Module, ...]

CHAINS: dict[type[nn.Module], Callable[[Any], Layers]] = {
    nn.Linear: lambda head: (head,),
    nn.Sequential: lambda head: tuple(head._modules.values()),
    Mlp: lambda head: tuple(head._modules["clf"]._modules.values()),
}
"""How to read the layers of a head, by its type: calling them one after the other must be what the head does."""

FLATTENS: frozenset[type[nn.Module]] = frozenset({Mlp})
"""Types of heads that read `(N, C, 1, 1)` as `(N, C)`."""

_KINDS: tuple[Any, ...] = (*CHAINS, nn.ReLU)
_FORWARDS: list[tuple[Any, Any]] = [(kind, kind.forward) for kind in _KINDS]
"""What the types of heads and layers do; anyone may set another `forward` on the class."""

MIN_ROWS = 8
"""Without gradients, smaller batches run head by head: joining the weights costs more than it saves."""

_PLAIN = (nn.Parameter, torch.Tensor)

KEY = "graphmodel"
"""Where the `Division` is found in the metadata of an autograd node."""


def run_heads(value: Any, heads: tuple[nn.Module, ...]) -> tuple[torch.Tensor, ...]:
    """What each head returns for a value that all of them read, or for its own one.

    The results equal those of the heads themselves up to rounding. They are contiguous and may be changed in place;
    those of equal shape share memory. In the backward pass the parameters of a head whose result is not used get no
    gradient, as if the head had run by itself.

    Example:
        >>> heads = tuple(nn.Linear(4, 3) for _ in range(5))
        >>> x = torch.randn(2, 4)
        >>> results = run_heads(x, heads)
        >>> all(torch.allclose(y, head(x), atol=1e-6) for y, head in zip(results, heads))
        True

    Args:
        value: a tensor `(N, …, C)`, or a tuple of tensors of equal shape, one for each head.
        heads: modules whose structure `columns_of` accepts.

    Returns:
        A tensor for each head, in order.
    """
    several = isinstance(value, (tuple, list))
    values = tuple(value) if several else (value,) * len(heads)
    columns = columns_of(heads, several) if _can_join(values) else None
    if columns is None:
        return tuple(head(x) for head, x in zip(heads, values, strict=True))
    if type(heads[0]) in FLATTENS and values[0].dim() > 2:
        values = tuple(x.flatten(1) for x in values) if several else (value.flatten(1),)
    joined: list[torch.Tensor] = []
    if several:
        stacked = torch.stack(values)
        joined.append(stacked)
        return _divided(_stacked(stacked, columns, joined), joined)
    if len(columns) > 1:
        hidden = _by_head(_joined(values[0], columns[0], joined), len(heads))
        return _divided(_stacked(hidden, columns[1:], joined), joined)
    y = _joined(values[0], columns[0], joined)
    sizes = [weight.shape[0] for weight in columns[0].weights]
    if all([size == sizes[0] for size in sizes]):
        return _divided(_by_head(y, len(heads)), joined)
    if torch.compiler.is_compiling():
        return tuple(part.contiguous() for part in torch.split(y, sizes, -1))
    parts = torch.ops.aten.split_with_sizes_copy.default(y, sizes, -1)
    _watch(parts, None, joined)
    return tuple(parts)


class Column(NamedTuple):
    """The layers at one position of several heads.

    Attributes:
        layers: the modules.
        weights: their weights; empty for ReLUs.
        biases: their biases; empty if they have none.
    """

    layers: Layers
    weights: list[torch.Tensor]
    biases: list[torch.Tensor]


def columns_of(heads: Sequence[nn.Module], several: bool = False) -> list[Column] | None:
    """The layers at each position of the heads, if the heads can run as one; None if they cannot.

    They can if each is a chain of linear layers and ReLUs, of the same widths, and nothing was attached to it or put in
    its place. Single linear layers on one value may differ in their number of outputs.

    Args:
        heads: modules.
        several: each head has a value of its own.
    """
    # Runs at each call, over a hundred heads: comprehensions take half the time of loops.
    kind = type(heads[0])
    read = CHAINS.get(kind)
    if read is None or any([type(head) is not kind for head in heads]):
        return None
    rows = [read(head) for head in heads]
    depth = len(rows[0])
    if not depth or any([len(layers) != depth for layers in rows]):
        return None
    columns = list(zip(*rows, strict=True))
    if type(columns[0][0]) is not nn.Linear or _is_changed((*heads, *(layer for layers in rows for layer in layers))):
        return None
    found = []
    for layers in columns:
        column = _column(layers, free=depth == 1 and not several)
        if column is None:
            return None
        found.append(column)
    return found


def _is_changed(parts: Sequence[nn.Module]) -> bool:
    """Whether something runs with the `forward` of a module, or in its place."""
    return bool(
        has_global_hooks()
        or any([part._forward_hooks for part in parts])
        or any([part._forward_pre_hooks for part in parts])
        or any([part._backward_hooks for part in parts])
        or any([part._backward_pre_hooks for part in parts])
        or any(["forward" in part.__dict__ for part in parts])
        or any([kind.forward is not known for kind, known in _FORWARDS])
    )


def _column(layers: Layers, *, free: bool) -> Column | None:
    """Layers at one position if they do the same; linear layers may differ in their number of outputs if `free`."""
    kind = type(layers[0])
    if kind not in (nn.Linear, nn.ReLU) or any([type(layer) is not kind for layer in layers]):
        return None
    if kind is nn.ReLU:
        return Column(layers, [], [])
    # An attribute of a module costs a function call, a look-up in its dict does not.
    weights: list[Any] = [layer._parameters["weight"] for layer in layers]
    biases: list[Any] = [layer._parameters["bias"] for layer in layers]
    # A weight of another class (quantized, sharded) brings its own linear operation.
    if not torch.compiler.is_compiling() and any([type(w) not in _PLAIN for w in weights]):
        return None
    shape, dtype = weights[0].shape, weights[0].dtype
    if any([w.dtype is not dtype for w in weights]):  # joining would convert some
        return None
    if any([w.shape[1:] != shape[1:] for w in weights] if free else [w.shape != shape for w in weights]):
        return None
    if biases[0] is None:
        return Column(layers, weights, []) if all([bias is None for bias in biases]) else None
    return None if any([bias is None for bias in biases]) else Column(layers, weights, biases)


def _can_join(values: Sequence[Any]) -> bool:
    """Whether joined weights are to be used for some values."""
    first = values[0]
    if isinstance(first, fx.Proxy):  # a tracer is shown the heads themselves
        return False
    if torch.compiler.is_compiling():
        return True
    least = 1 if torch.is_grad_enabled() else MIN_ROWS
    if first.dim() < 2 or first.shape[0] < least:
        return False
    return all(x is first or (x.shape == first.shape and x.dtype == first.dtype) for x in values)


def _joined(x: torch.Tensor, column: Column, joined: list[torch.Tensor]) -> torch.Tensor:
    """One multiplication for linear layers on one value, `(…, C)` to `(…, sum of outputs)`."""
    weight, bias = _gathered(torch.cat, column, joined)
    return F.linear(x, weight, bias)


def _stacked(x: torch.Tensor, columns: list[Column], joined: list[torch.Tensor]) -> torch.Tensor:
    """One batched multiplication at each position for `(heads, …, C)`."""
    lead = x.shape[1:-1]
    x = x.flatten(1, -2)
    for column in columns:
        if not column.weights:
            x = F.relu(x, inplace=True)  # the product is this function's own
            continue
        weight, bias = _gathered(torch.stack, column, joined)
        turned = weight.transpose(1, 2)
        x = torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)
    return x.view(x.shape[0], *lead, x.shape[2])


def _gathered(
    gather: Callable[[list[torch.Tensor]], torch.Tensor], column: Column, joined: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight = gather(column.weights)
    joined.append(weight)
    if not column.biases:
        return weight, None
    bias = gather(column.biases)
    joined.append(bias)
    return weight, bias


def _by_head(x: torch.Tensor, count: int) -> torch.Tensor:
    """`(…, heads * C)` as `(heads, …, C)`, contiguous."""
    return x.view(*x.shape[:-1], count, x.shape[-1] // count).movedim(-2, 0).contiguous()


def _divided(x: torch.Tensor, joined: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The parts of `(heads, N, …, C)`."""
    if torch.compiler.is_compiling():
        return x.unbind()
    base = x.flatten(0, 1)
    # Unlike views of `unbind`, these may be changed in place.
    parts = tuple(torch.unsafe_split(base, x.shape[1]))
    _watch(parts, base, joined)
    return parts


class Marks:
    """Which results got no gradient in a backward pass.

    Attributes:
        unused: by the position of the head.
        whole: the gradient of all results came at once, past their division.
    """

    __slots__ = ("unused", "whole")

    def __init__(self) -> None:
        self.unused: list[bool] = []
        self.whole = False


class Division:
    """The joined result behind the results of heads.

    Attributes:
        base: the results one after the other, `(heads * N, …, C)`; None if their shapes differ.
        count: how many there are.
        marks: see `Marks`.
    """

    __slots__ = ("base", "count", "marks")

    def __init__(self, base: torch.Tensor | None, count: int) -> None:
        self.base, self.count, self.marks = base, count, Marks()


def _watch(parts: Sequence[torch.Tensor], base: torch.Tensor | None, joined: list[torch.Tensor]) -> None:
    """Keeps gradients of zeros from the parameters of heads whose results are not used.

    The division's backward fills in zeros for results without a gradient. An optimizer treats a gradient of zeros
    unlike none: weight decay and momentum go on.
    """
    node = parts[0].grad_fn
    if node is None or torch._C._are_functorch_transforms_active():
        return
    division = Division(base, len(parts))
    marks, nodes = division.marks, [tensor.grad_fn for tensor in joined if tensor.grad_fn is not None]
    _metadata(node)[KEY] = division

    # What hooks hold must not lead back to the node they are on, or the graph is never freed.
    def before(gradients: tuple[torch.Tensor | None, ...]) -> None:
        first = not marks.unused
        unused = [gradient is None for gradient in gradients]
        if any(unused) or not first:
            marks.unused = unused
            for each in nodes if first else ():
                each.register_hook(after)

    def after(gradients: tuple[Any, ...], _: Any) -> tuple[Any, ...] | None:
        if marks.whole or not any(marks.unused):
            return None
        return tuple(None if unused else g for g, unused in zip(gradients, marks.unused, strict=True))

    node.register_prehook(before)


def _metadata(node: Any) -> dict[Any, Any]:
    return node.metadata  # type: ignore[no-any-return]  # a dict that lives as long as the node


def joined_result(results: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that `run_heads` divided into exactly these results, one after the other; None if there is none.

    Using it saves joining them again. Its gradient counts as one of all the results and does not pass through them, so
    it is not used if somebody waits for theirs (`register_hook`, `retain_grad`).

    Args:
        results: tensors in the order of the heads.
    """
    node = results[0].grad_fn
    division = _metadata(node).get(KEY) if node is not None else None
    if not isinstance(division, Division) or division.base is None or division.count != len(results):
        return None
    if any([result.grad_fn is not node for result in results]) or any([result._version for result in results]):
        return None
    if [result.output_nr for result in results] != list(range(len(results))):
        return None
    if any([result._backward_hooks for result in results]) or any([result.retains_grad for result in results]):
        return None
    marks, whole = division.marks, division.base.view_as(division.base)

    def mark(_: torch.Tensor) -> None:
        marks.whole = True

    whole.register_hook(mark)  # type: ignore[no-untyped-call]
    return whole
