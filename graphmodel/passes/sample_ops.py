"""Rules of torch's operations: which samples of a batch each element of a result depends on.

A tensor's *owners* are a tensor of the same shape: the number of the one sample that each element depends on, or
`SHARED` for elements that depend on none. Owners are expanded along every dimension in which they do not differ, so
that they take next to no memory. An operation without a rule, and a result that depends on several samples, raise
`Mixed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

SHARED = -1.0
Owners = torch.Tensor
OwnersOf = Callable[[Any], "Owners | None"]


class Mixed(Exception):
    """A value is not proven to depend on one sample alone; the message says why."""


def owners_of_results(name: str, args: dict[str, Any], results: Any, owners: OwnersOf, pointwise: bool) -> list[Any]:
    """The owners of an operation's results; None for a result that no sample changes.

    Args:
        name: the operation's name, such as `addmm`.
        args: its arguments by name.
        results: what it returned.
        owners: the owners of a tensor, None for one that no sample changes.
        pointwise: whether it computes each element from the elements at the same place.

    Raises:
        Mixed: if a result depends on several samples, or nothing is known about the operation.
    """
    outs = list(results) if isinstance(results, (tuple, list)) else [results]
    rule = _RULES.get(name) or _by_pattern(name)
    if rule is None and (pointwise or name in _POINTWISE):
        rule = _pointwise
    if rule is None:
        raise Mixed(f"the operation `{name}` is not known to keep samples apart")
    found = rule(args, outs, owners)
    if found is None:
        return [None] * len(outs)
    return [o if o is None else spread(o, out.shape) for o, out in zip(found, outs, strict=True)]


SIZED = frozenset(
    "view _unsafe_view reshape expand slice split split_with_sizes new_empty new_zeros new_ones new_full zeros ones "
    "full empty repeat native_group_norm as_strided_ narrow unsafe_split".split()
)
"""Operations that may be called with numbers that depend on the batch size: their owners are computed with the same."""


def spread(owners: Owners, shape: Sequence[int]) -> Owners:
    """Owners expanded to a shape, and along every dimension in which they do not differ."""
    owners = compact(owners.expand(shape))
    for dim, size in enumerate(owners.shape):
        if size > 1 and bool((owners == owners.narrow(dim, 0, 1)).all()):
            owners = owners.narrow(dim, 0, 1)
    return owners.expand(shape)


def compact(owners: Owners) -> Owners:
    """Owners with a single element along dimensions in which they do not differ."""
    for dim in range(owners.ndim):
        if owners.shape[dim] > 1 and owners.stride(dim) == 0:
            owners = owners.narrow(dim, 0, 1)
    return owners


def along(owners: Owners, dims: Sequence[int]) -> Owners:
    """The owners of values computed from everything along some dimensions, which are kept with one element.

    Raises:
        Mixed: if samples differ along them.
    """
    dims = [d % owners.ndim for d in dims] if owners.ndim else []
    owners = compact(owners)
    if not dims or not owners.numel():
        return owners
    high = owners.amax(dims, True)
    low = torch.where(owners < 0, torch.inf, owners).amin(dims, True)
    if bool((low < high).any()):
        raise Mixed("computes across the samples of a batch")
    return high


def together(found: Sequence[Owners | None]) -> Owners | None:
    """The owners of values computed from the elements of several tensors at the same place.

    Raises:
        Mixed: if they belong to different samples.
    """
    result: Owners | None = None
    for other in found:
        if other is None:
            continue
        if result is None:
            result = compact(other)
            continue
        a, b = torch.broadcast_tensors(result, compact(other))  # type: ignore[no-untyped-call]
        if bool(((a != b) & (a >= 0) & (b >= 0)).any()):
            raise Mixed("combines values of different samples")
        result = torch.maximum(a, b)
    return result


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among arguments, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors_in(item)]
    return [t for item in value for t in tensors_in(item)] if isinstance(value, (list, tuple)) else []


# -- rules -------------------------------------------------------------------------------------------------------------


def _pointwise(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any] | None:
    found = together([_padded(owners(t), t) for t in tensors_in(args)])
    return None if found is None else [found for _ in outs]


def _padded(found: Owners | None, tensor: torch.Tensor) -> Owners | None:
    return found.expand(tensor.shape) if found is not None else None


def _first(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    """The result is the argument in another memory layout or dtype."""
    return [owners(next(iter(args.values()))) for _ in outs]


def _moved(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """An operation that moves elements, and moves their owners in the same way."""

    def rule(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
        def own(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                found = owners(value)
                return torch.full((), SHARED).expand(value.shape) if found is None else found
            return [own(v) for v in value] if isinstance(value, (list, tuple)) else value

        given = {key: own(value) for key, value in args.items()}
        made = function(**given)
        return list(made) if isinstance(made, (tuple, list)) else [made]

    return rule


def _op(name: str, overload: str = "default") -> Callable[..., list[Any]]:
    return _moved(getattr(getattr(torch.ops.aten, name), overload))


def _viewed(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any] | None:
    """A view of other dimensions; only those along which samples differ are laid out in memory."""
    found, target = owners(args["self"]), list(outs[0].shape)
    if found is None or not outs[0].numel():
        return None
    source, small = list(found.shape), compact(found)
    made: list[int] = []
    full: list[int] = []
    i = j = 0
    while i < len(source) or j < len(target):  # the smallest groups of dimensions with as many elements on both sides
        start, stop, first, second = i, j, 1, 1
        while first != second or (i == start and j == stop):
            if (first <= second and i < len(source)) or j == len(target):
                first, i = first * source[i], i + 1
            else:
                second, j = second * target[j], j + 1
        differs = any(s > 1 for s in small.shape[start:i])
        full += source[start:i] if differs else [1] * (i - start)
        made += target[stop:j] if differs else [1] * (j - stop)
    return [small.expand(full).reshape(made)]


def _expanded(self: Owners, size: Any, **_: Any) -> Owners:
    return self.expand(size)


def _reduced(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any] | None:
    """Sums, means, maxima and the like."""
    found = owners(args["self"])
    if found is None:
        return None
    dims = args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(found.ndim))
    found = along(found, dims)
    if not args.get("keepdim", False):
        gone = {d % args["self"].ndim for d in dims}
        found = found.reshape([s for d, s in enumerate(found.shape) if d not in gone])
    return [found for _ in outs]


def _along_dim(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    """Softmax, cumulative sums and sorting along a dimension."""
    found = along(owners(args["self"]), [args.get("dim", -1)])  # type: ignore[arg-type]
    return [found for _ in outs]


def _last_dims(count: int) -> Callable[..., list[Any]]:
    """Pooling, resizing and the like over the last dimensions, each channel on its own."""

    def rule(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
        found = along(owners(next(iter(args.values()))), range(-count, 0))  # type: ignore[arg-type]
        return [found for _ in outs]

    return rule


def _layer_norm(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    _shared_only(args, owners, "weight", "bias")
    found = along(owners(args["input"]), range(-len(args["normalized_shape"]), 0))  # type: ignore[arg-type]
    return [found for _ in outs]


def _group_norm(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    _shared_only(args, owners, "weight", "bias")
    given = args["input"]
    found = along(owners(given), range(1, given.ndim))  # type: ignore[arg-type]
    return [found, found.reshape(-1, 1), found.reshape(-1, 1)]


def _batch_norm(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    _shared_only(args, owners, "weight", "bias", "running_mean", "running_var")
    given = args["input"]
    found = owners(given)
    assert found is not None
    if args["training"]:
        if args.get("running_mean") is not None:
            raise Mixed("normalizes over the batch in training mode")
        try:  # instance normalization is batch normalization of one row whose channels are those of all samples
            found = along(found, [d for d in range(given.ndim) if d != 1])
        except Mixed:
            raise Mixed("normalizes over the batch") from None
    return [found, *([None] * (len(outs) - 1))]


def _convolution(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    _shared_only(args, owners, "weight", "bias")
    given = args["input"]
    return [along(owners(given), range(1, given.ndim))]  # type: ignore[arg-type]


def _matrix_product(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    tensors = [t for t in args.values() if isinstance(t, torch.Tensor)]
    first, second = owners(tensors[-2]), owners(tensors[-1])
    added = owners(tensors[0]) if len(tensors) == 3 else None
    rows = None if first is None else along(first, [-1])
    columns = None if second is None else along(second, [-2])
    return [together([rows, columns, added])]


def _embedding(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    _shared_only(args, owners, "weight")
    found = owners(args["indices"])
    return [None if found is None else found.unsqueeze(-1)]


def _index(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    """`x[:, index]` with an index that no sample changes; its numbers are unknown here."""
    indices = args["indices"]
    if any(owners(i) is not None for i in tensors_in(indices)) or owners(args["self"]) is None:
        raise Mixed("reads elements at positions that depend on the sample")
    dims = [d for d, index in enumerate(indices) if index is not None]
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        raise Mixed("reads elements at positions that are unknown here")
    found = along(owners(args["self"]), dims).expand(  # type: ignore[arg-type]
        [1 if d in dims else s for d, s in enumerate(args["self"].shape)]
    )
    zeros = [None if index is None else torch.zeros(index.shape, dtype=torch.long) for index in indices]
    return [torch.ops.aten.index.Tensor(found, zeros)]


def _index_select(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    if owners(args["index"]) is not None or owners(args["self"]) is None:
        raise Mixed("reads elements at positions that depend on the sample")
    return [along(owners(args["self"]), [args["dim"]])]  # type: ignore[arg-type]


def _gather(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    found, index = owners(args["self"]), owners(args["index"])
    shape, dim = list(args["index"].shape), args["dim"] % args["index"].ndim
    if found is not None:
        if any(s != t for d, (s, t) in enumerate(zip(shape, args["self"].shape, strict=True)) if d != dim):
            raise Mixed("reads elements at positions that are unknown here")
        found = along(found, [dim])
    return [together([found, index])]


def _same_strides(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    """`as_strided_`, as pooling to one pixel calls it: elements stay where they are."""
    found, size, stride = owners(args["self"]), list(args["size"]), list(args["stride"])
    contiguous = [1] * len(size)
    for d in range(len(size) - 2, -1, -1):
        contiguous[d] = contiguous[d + 1] * size[d + 1]
    moved = any(s > 1 and a != b for s, a, b in zip(size, stride, contiguous, strict=True))
    if found is None or list(found.shape) != size or moved or args.get("storage_offset"):
        raise Mixed("reads memory at positions that are unknown here")
    return [found]


def _shared_only(args: dict[str, Any], owners: OwnersOf, *names: str) -> None:
    if any(isinstance(args.get(n), torch.Tensor) and owners(args[n]) is not None for n in names):
        raise Mixed("computes weights from samples")


_POINTWISE = frozenset("hardswish hardswish_ copy_ rsub _log_sigmoid log_sigmoid_forward lerp masked_fill".split())
_REDUCTIONS = (
    "sum mean amax amin max min var std var_mean std_mean linalg_vector_norm logsumexp prod argmax argmin any all norm"
)
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys("clone alias detach _to_copy lift_fresh contiguous".split(), _first),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _viewed),
    **dict.fromkeys(_REDUCTIONS.split(), _reduced),
    **dict.fromkeys("_softmax _safe_softmax _log_softmax cumsum cumprod sort topk glu".split(), _along_dim),
    **dict.fromkeys("native_batch_norm _native_batch_norm_legit".split(), _batch_norm),
    **dict.fromkeys("mm bmm addmm baddbmm".split(), _matrix_product),
    "expand": _moved(_expanded),
    "permute": _op("permute"),
    "transpose": _op("transpose", "int"),
    "t": _op("t"),
    "unsqueeze": _op("unsqueeze"),
    "slice": _op("slice", "Tensor"),
    "select": _op("select", "int"),
    "split": _op("split", "Tensor"),
    "split_with_sizes": _op("split_with_sizes"),
    "unbind": _op("unbind", "int"),
    "cat": _op("cat"),
    "stack": _op("stack"),
    "flip": _op("flip"),
    "roll": _op("roll"),
    "repeat": _op("repeat"),
    "constant_pad_nd": _moved(lambda self, pad, value=0: torch.constant_pad_nd(self, pad, SHARED)),
    "reflection_pad2d": _op("reflection_pad2d"),
    "replication_pad2d": _op("replication_pad2d"),
    "pixel_shuffle": _op("pixel_shuffle"),
    "pixel_unshuffle": _op("pixel_unshuffle"),
    "unfold": _op("unfold"),
    "im2col": _op("im2col"),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "as_strided_": _same_strides,
}


def _squeezed(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    found = owners(args["self"])
    return [None if found is None else found.reshape(outs[0].shape)]


_RULES["squeeze"] = _squeezed


def _constant(args: dict[str, Any], outs: list[Any], owners: OwnersOf) -> list[Any]:
    """`zeros_like` and the like: as if each sample had its own."""
    return [owners(args["self"])]


_RULES.update(dict.fromkeys("zeros_like ones_like full_like empty_like fill_ zero_".split(), _constant))

_POOLS = re.compile(r"^_?(adaptive_)?(avg|max)_pool([123])d(_with_indices)?$|^_?upsample_\w+?([123])d(_aa)?$")


def _by_pattern(name: str) -> Callable[..., Any] | None:
    found = _POOLS.match(name)
    if found is None:
        return None
    count = next(int(g) for g in (found[3], found[5]) if g)
    return _last_dims(count)
