"""Makes one graph of a trunk's eval and training traces: what differs by mode becomes a module that knows its mode."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from graphmodel.tracing.proxy import TraceError
from graphmodel.tracing.traced import ROOT, Opened

DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}
"""Functional dropout and the module of the same effect."""

BY_MODE_HELP = "put what differs into a module of its own in the trunk's code, or read the trunk's own result alone"


class ByMode(nn.Module):
    """A function that acts by mode: with other arguments (attention's `dropout_p`) or in training alone (augmentation).

    It holds no parameters. Arguments that are no tensors are fixed, one set for each mode; tensors are passed in.

    Attributes:
        function: what it calls, or the name of a tensor's method.
        training_call: positional and keyword arguments in training mode; `Slot` marks a tensor.
        eval_call: the same in eval mode; None returns the first tensor as it is.
    """

    def __init__(self, function: Callable[..., Any] | str, training_call: Any, eval_call: Any = None) -> None:
        super().__init__()
        self.function, self.training_call, self.eval_call = function, training_call, eval_call

    def forward(self, *values: Any) -> Any:
        """The function's result for these tensors."""
        call = self.training_call if self.training else self.eval_call
        if call is None:
            return values[0]
        args, kwargs = _filled(call, values)
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        name = self.function if isinstance(self.function, str) else self.function.__name__
        return name if self.eval_call is not None else f"{name}, in training"


class Slot(int):
    """The position of a tensor among the values that a `ByMode` is called with."""


def _filled(value: Any, values: tuple[Any, ...]) -> Any:
    if isinstance(value, Slot):
        return values[value]
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(v, values) for v in value)
    if isinstance(value, dict):
        return {k: _filled(v, values) for k, v in value.items()}
    return value


def for_both_modes(still: Opened, moving: Opened, trunk: nn.Module) -> Opened:
    """One graph that acts as `still` in eval mode and as `moving` in training mode.

    Functional dropout becomes an `nn.Dropout`; a call whose fixed arguments differ, or that changes a value in training
    alone, becomes a `ByMode`. Both follow the mode of the module they are put into.

    Args:
        still: the trunk traced in eval mode.
        moving: the trunk traced in training mode.
        trunk: the trunk, for names that are taken.

    Raises:
        TraceError: where the two differ in more than that.
    """
    joiner = _Joiner(still, moving, trunk)
    return still if joiner.equal() else joiner.joined()


def with_dropout_modules(moving: Opened, trunk: nn.Module) -> Opened:
    """A training trace alone, its functional dropout made modules; for what a trunk computes in training only."""
    joiner = _Joiner(moving, moving, trunk)
    joiner.replace_dropouts()
    return replace(moving, extras=joiner.extras)


class _Joiner:
    """Compares two traces call by call, and changes the training trace where they differ."""

    def __init__(self, still: Opened, moving: Opened, trunk: nn.Module) -> None:
        self.still, self.moving, self.trunk = still, moving, trunk
        self.extras: dict[str, nn.Module | torch.Tensor] = {**still.extras, **moving.extras}

    def equal(self) -> bool:
        """Whether both traces are the same calls."""
        first, second = list(self.still.graph.nodes), list(self.moving.graph.nodes)
        if len(first) != len(second):
            return False
        same = dict(zip(first, second, strict=True))
        return all(
            a.op == b.op and a.target == b.target and _same_arguments(a, b, same) for a, b in same.items()
        ) and all(same[node] is self.moving.features[name] for name, node in self.still.features.items())

    def joined(self) -> Opened:
        """The training trace with modules where the modes differ."""
        self.replace_dropouts()
        _without_dropout(self.still)
        stands_for: dict[fx.Node, fx.Node] = {}
        still = [n for n in self.still.graph.nodes if not n.meta.get("same_value")]
        for node in list(self.moving.graph.nodes):
            # Dropout and copies stand for the value they read: eval mode has no dropout, and fewer in-place changes.
            if node.meta.get("same_value"):
                stands_for[node] = stands_for[node.all_input_nodes[0]]
            elif still and still[0].op == node.op and self.match(node, still[0], stands_for):
                del still[0]
            elif _keeps_shape(node):
                source = stands_for[node.all_input_nodes[0]]
                stands_for[self.in_training(node)] = source
            else:
                raise TraceError(_differs(node, still[0] if still else None), BY_MODE_HELP)
        if still:
            raise TraceError("the trunk does more in eval mode than in training mode", BY_MODE_HELP)
        for name, node in self.moving.features.items():
            if stands_for[node] is not _source(self.still.features[name]):
                raise TraceError(f"the feature `{name}` is another value in training mode", BY_MODE_HELP)
        return replace(self.moving, extras=self.extras)

    def match(self, node: fx.Node, other: fx.Node, stands_for: dict[fx.Node, fx.Node]) -> bool:
        """Whether two calls agree up to fixed arguments; a call with different ones becomes a `ByMode`."""
        inverse = {n: stands_for[n] for n in node.all_input_nodes}
        if node.target == other.target and _same_arguments(node, other, inverse):
            stands_for[node] = other
            return True
        if isinstance(node.target, str) or node.target != other.target:
            return False
        tensors: list[fx.Node] = []
        others: list[fx.Node] = []
        training_call = _slots((node.args, dict(node.kwargs)), tensors)
        eval_call = _slots((other.args, dict(other.kwargs)), others)
        if [inverse[n] for n in tensors] != [_source(n) for n in others]:
            return False
        made = self.put_module(node, ByMode(node.target, training_call, eval_call), tuple(tensors))
        stands_for[made] = other
        return True

    def in_training(self, node: fx.Node) -> fx.Node:
        """Puts a `ByMode` in the place of a call that is made in training alone."""
        tensors: list[fx.Node] = []
        call = _slots((node.args, dict(node.kwargs)), tensors)
        assert not isinstance(node.target, str) or node.op == "call_method", "only functions and methods keep shapes"
        return self.put_module(node, ByMode(node.target, call), tuple(tensors))

    def replace_dropouts(self) -> None:
        """Puts modules in the place of functional dropout that acts in training alone."""
        always = [n for n in self.still.graph.nodes if n.target in DROPOUTS and _dropout(n)["training"]]
        if always and self.still is not self.moving:
            return
        for node in list(self.moving.graph.nodes):
            if node.op == "call_function" and node.target in DROPOUTS:
                given = _dropout(node)
                module = DROPOUTS[node.target](given["p"], given["inplace"])
                self.put_module(node, module, (given["input"],)).meta["same_value"] = True

    def put_module(self, node: fx.Node, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        """Puts a call of `module` in the place of `node`."""
        graph = self.moving.graph
        path = self.free_path(node.name.removeprefix(f"{ROOT}_").strip("_"))
        self.extras[path] = module
        with graph.inserting_before(node):
            made = graph.create_node("call_module", path, args, {})
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        for other in graph.nodes:
            other.meta["mutates"] = [made if n is node else n for n in other.meta.get("mutates", ())]
        for name, feature in self.moving.features.items():
            if feature is node:
                self.moving.features[name] = made
        graph.erase_node(node)
        return made

    def free_path(self, name: str) -> str:
        taken = set(self.extras) | set(dir(self.trunk))
        candidate, number = name, 1
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        return candidate


def _keeps_shape(node: fx.Node) -> bool:
    """Whether a call makes of one tensor another like it, as augmentation does."""
    if node.op not in ("call_function", "call_method") or len(node.all_input_nodes) != 1:
        return False
    made, read = node.meta["values"][0], node.all_input_nodes[0].meta["values"][0]
    tensors = isinstance(made, torch.Tensor) and isinstance(read, torch.Tensor)
    return tensors and (made.shape, made.dtype) == (read.shape, read.dtype) and not node.meta.get("mutates")


def _differs(node: fx.Node, other: fx.Node | None) -> str:
    there = f"`{_call(other)}`" if other is not None else "nothing"
    return f"the trunk does other things in training than in eval mode: `{_call(node)}` against {there}"


def _call(node: fx.Node) -> str:
    """A call as it would be written."""
    name = getattr(node.target, "__name__", None) or str(node.target)
    arguments = [*map(str, node.args), *(f"{k}={v}" for k, v in node.kwargs.items())]
    return f"{name}({', '.join(arguments)})"


def _source(node: fx.Node) -> fx.Node:
    """The node whose value a copy stands for."""
    return node.all_input_nodes[0] if node.meta.get("same_value") else node


def _without_dropout(opened: Opened) -> None:
    """Removes functional dropout from an eval trace, where it does nothing."""
    for node in list(opened.graph.nodes):
        if node.op == "call_function" and node.target in DROPOUTS and not _dropout(node)["training"]:
            source = _dropout(node)["input"]
            node.replace_all_uses_with(source)
            for name, feature in opened.features.items():
                if feature is node:
                    opened.features[name] = source
            opened.graph.erase_node(node)


def _dropout(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of functional dropout by name."""
    names = ("input", "p", "train") if node.target is torch.dropout else ("input", "p", "training", "inplace")
    given = {"p": 0.5, "training": True, "inplace": False, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {**given, "training": given.get("train", given["training"])}


def _slots(value: Any, tensors: list[fx.Node]) -> Any:
    """`value` with every node replaced by its slot; the nodes are appended to `tensors`."""
    if isinstance(value, fx.Node):
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if isinstance(value, (list, tuple)):
        return type(value)(_slots(v, tensors) for v in value)
    if isinstance(value, dict):
        return {k: _slots(v, tensors) for k, v in value.items()}
    return value


def _same_arguments(node: fx.Node, other: fx.Node, same: dict[fx.Node, fx.Node]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node):
            return same.get(a) in (b, _source(b) if isinstance(b, fx.Node) else b)
        if isinstance(a, (list, tuple)):
            return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
        if isinstance(a, dict):
            return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, slice):
            return isinstance(b, slice) and all(map(equal, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
        return type(a) is type(b) and bool(operator.eq(a, b))

    return equal(node.args, other.args) and equal(dict(node.kwargs), dict(other.kwargs))
