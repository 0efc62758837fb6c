"""Matches tensors by their order instead of their names, for layouts with foreign names (`match="order"`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from graphmodel.diagnostics import CompileError, fail
from graphmodel.weights.reading import StateDict, shape_of
from graphmodel.weights.readings import Reading, clean

LEAVES = {"weight", "bias", "running_mean", "running_var"}
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Target:
    """What is filled in order.

    Attributes:
        name: a trunk's name, or `the model`.
        shapes: every tensor of it in module order, pruned stages included.
        wanted: those that the module has; behind the last of them the two sides may differ.
    """

    name: str
    shapes: Mapping[str, torch.Size]
    wanted: frozenset[str]


@dataclass(frozen=True)
class Disagreement:
    """The first place where a state dict and a target differ, and how many tensors agreed before it."""

    agreed: int
    text: str


def in_order(state: StateDict, target: Target, prefix: str = "") -> Reading | Disagreement:
    """The reading that takes the tensors of a state dict one after the other.

    Shapes must agree one by one, and so must the last parts of the names if both are one of torch's own (`weight`,
    `bias`, `running_mean`, `running_var`). `num_batches_tracked` follows the tensors of its layer, since old files
    lack it.

    Args:
        state: the state dict, in the order of its modules.
        target: what is filled.
        prefix: what the keys of the network start with; others are left out.
    """
    theirs = [k for k in state.tensors if clean(k).startswith(prefix)] if prefix else list(state.tensors)
    plain = [k for k in theirs if _leaf(k) != COUNTER]
    ours = [k for k in target.shapes if _leaf(k) != COUNTER]
    needed = 1 + max((i for i, k in enumerate(ours) if k in target.wanted), default=-1)
    keys: dict[str, str] = {}
    for i, name in enumerate(ours):
        if i == len(plain):
            if i < needed:
                text = f"the checkpoint ends after {i} tensors; next is `{name}` {tuple(target.shapes[name])}"
                return Disagreement(i, text)
            break
        key, shape = plain[i], tuple(shape_of(state.tensors[plain[i]]) or ())
        kinds = {_leaf(key), _leaf(name)}
        if shape != tuple(target.shapes[name]) or (len(kinds) == 2 and kinds <= LEAVES):
            if i < needed:
                text = f"tensor {i + 1}: `{key}` is {shape}, `{name}` is {tuple(target.shapes[name])}"
                return Disagreement(i, text)
            break
        keys[key] = name
    present = set(theirs)
    for key, name in list(keys.items()):
        counter, counted = _sibling(key), _sibling(name)
        if _leaf(name) == "running_var" and counter in present and counted in target.shapes:
            keys[counter] = counted
    return Reading("order", f"the order of the tensors of {target.name}", state, prefix, keys)


def readings_in_order(found: Sequence[StateDict], target: Target) -> list[Reading]:
    """The readings of every network of a checkpoint whose tensors agree with a target."""
    return [r for r in _results(found, target) if isinstance(r, Reading)]


def disagreement(found: Sequence[StateDict], target: Target) -> CompileError:
    """GM516 with the first disagreement of the network that agrees longest."""
    failures = [r for r in _results(found, target) if isinstance(r, Disagreement)]
    worst = max(failures, default=Disagreement(0, "it has too few tensors"), key=lambda f: f.agreed)
    return fail(
        "GM516",
        f"the checkpoint does not have the tensors of {target.name} in the same order ({worst.agreed} agree): "
        f"{worst.text}",
        help='without `match="order"` tensors are matched by name',
    )


def _results(found: Sequence[StateDict], target: Target) -> Iterator[Reading | Disagreement]:
    for state in found:
        for prefix in _prefixes(state, len(target.wanted) // 2):
            yield in_order(state, target, prefix)


def _prefixes(state: StateDict, least: int) -> list[str]:
    """Prefixes of at least so many keys, and the empty one."""
    counts: dict[str, int] = {"": len(state.tensors)}
    for key in map(clean, state.tensors):
        for i, c in enumerate(key):
            if c == ".":
                counts[key[: i + 1]] = counts.get(key[: i + 1], 0) + 1
    return [prefix for prefix, count in counts.items() if count >= max(least, 1)]


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _sibling(key: str) -> str:
    return f"{key.rpartition('.')[0]}.{COUNTER}".lstrip(".")
