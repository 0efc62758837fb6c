"""Makes one graph of a trunk's eval and training traces: a call that differs becomes a module that follows the mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from graphmodel.components.structure import equal_structure, map_structure
from graphmodel.tracing.errors import TraceError
from graphmodel.tracing.traced import TracedTrunk
from graphmodel.tracing.trunk_tensors import ROOT

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

MODE_HELP = "move what differs into a module of its own in the trunk's code, or read only the trunk's own result"


class ModeSwitch(nn.Module):
    """A function that follows the mode: other arguments (attention's `dropout_p`), or training only (augmentation).

    It holds no parameters. Arguments that are not tensors are fixed, one set for each mode; tensors are passed in.

    Attributes:
        function: what it calls, or the name of a tensor's method.
        training_call: positional and keyword arguments in training mode; `Slot` marks a tensor.
        eval_call: the same in eval mode; None returns the first tensor unchanged.
    """

    def __init__(self, function: Callable[..., Any] | str, training_call: Any, eval_call: Any = None) -> None:
        super().__init__()
        self.function, self.training_call, self.eval_call = function, training_call, eval_call

    def forward(self, *values: Any) -> Any:
        """The function's result for these tensors."""
        call = self.training_call if self.training else self.eval_call
        if call is None:
            return values[0]
        args, kwargs = map_structure(lambda item: values[item.index] if isinstance(item, Slot) else item, call)
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        name = self.function if isinstance(self.function, str) else self.function.__name__
        return name if self.eval_call is not None else f"{name}, in training"


@dataclass(frozen=True)
class Slot:
    """The position of a tensor among the values that a `ModeSwitch` is called with.

    It is not an `int`: under `torch.compile`, torch 2.11 cannot index with a subclass of `int`.
    """

    index: int


def for_both_modes(eval_trace: TracedTrunk, train_trace: TracedTrunk, trunk: nn.Module) -> TracedTrunk:
    """One graph that acts as `eval_trace` in eval mode and as `train_trace` in training mode.

    Functional dropout becomes an `nn.Dropout`; a call whose fixed arguments differ, or that changes a value in training
    alone, becomes a `ModeSwitch`. Both follow the mode of the module they are put into.

    Args:
        eval_trace: the trunk traced in eval mode.
        train_trace: the trunk traced in training mode.
        trunk: the trunk, for names that are taken.

    Returns:
        `eval_trace` if both are the same calls, else `train_trace` with modules for the calls that differ.

    Raises:
        TraceError: if the two differ in more than that.
    """
    joiner = _Joiner(eval_trace, train_trace, trunk)
    return eval_trace if joiner.equal() else joiner.joined()


def with_dropout_modules(train_trace: TracedTrunk, trunk: nn.Module) -> TracedTrunk:
    """A training trace with modules for its functional dropout; for what a trunk computes in training mode only."""
    joiner = _Joiner(train_trace, train_trace, trunk)
    joiner.replace_dropouts()
    return replace(train_trace, extras=joiner.extras)


class _Joiner:
    """Compares two traces call by call, and replaces what differs in the training trace."""

    def __init__(self, eval_trace: TracedTrunk, train_trace: TracedTrunk, trunk: nn.Module) -> None:
        self.eval_trace, self.train_trace, self.trunk = eval_trace, train_trace, trunk
        self.extras: dict[str, nn.Module | torch.Tensor] = {**eval_trace.extras, **train_trace.extras}

    def equal(self) -> bool:
        """Whether both traces are the same calls."""
        first, second = list(self.eval_trace.graph.nodes), list(self.train_trace.graph.nodes)
        if len(first) != len(second):
            return False
        same = dict(zip(first, second, strict=True))
        return all(
            a.op == b.op and a.target == b.target and _same_arguments(a, b, same) for a, b in same.items()
        ) and all(same[node] is self.train_trace.features[name] for name, node in self.eval_trace.features.items())

    def joined(self) -> TracedTrunk:
        """The training trace with modules in place of what differs."""
        self.replace_dropouts()
        _without_dropout(self.eval_trace)
        counterpart: dict[fx.Node, fx.Node] = {}
        left = [n for n in self.eval_trace.graph.nodes if not n.meta.get("same_value")]
        for node in list(self.train_trace.graph.nodes):
            # The counterpart of dropout and of a copy is that of the value it reads: eval mode has no dropout, and
            # fewer values that change in place.
            if node.meta.get("same_value"):
                counterpart[node] = counterpart[node.all_input_nodes[0]]
            elif left and left[0].op == node.op and self.match(node, left[0], counterpart):
                del left[0]
            elif _keeps_shape(node):
                source = counterpart[node.all_input_nodes[0]]
                counterpart[self.in_training(node)] = source
            else:
                raise TraceError(_differs(node, left[0] if left else None), MODE_HELP)
        if left:
            raise TraceError("the trunk does more in eval mode than in training mode", MODE_HELP)
        for name, node in self.train_trace.features.items():
            if counterpart[node] is not _source(self.eval_trace.features[name]):
                raise TraceError(f"the feature `{name}` is a different value in training mode", MODE_HELP)
        return replace(self.train_trace, extras=self.extras)

    def match(self, node: fx.Node, other: fx.Node, counterpart: dict[fx.Node, fx.Node]) -> bool:
        """Whether two calls agree up to fixed arguments; a call with different ones becomes a `ModeSwitch`."""
        inverse = {n: counterpart[n] for n in node.all_input_nodes}
        if node.target == other.target and _same_arguments(node, other, inverse):
            counterpart[node] = other
            return True
        if isinstance(node.target, str) or node.target != other.target:
            return False
        tensors: list[fx.Node] = []
        others: list[fx.Node] = []
        training_call = _slots((node.args, node.kwargs), tensors)
        eval_call = _slots((other.args, other.kwargs), others)
        if [inverse[n] for n in tensors] != [_source(n) for n in others]:
            return False
        made = self.put_module(node, ModeSwitch(node.target, training_call, eval_call), tuple(tensors))
        counterpart[made] = other
        return True

    def in_training(self, node: fx.Node) -> fx.Node:
        """Replaces a call that is made in training mode only by a `ModeSwitch`."""
        tensors: list[fx.Node] = []
        call = _slots((node.args, node.kwargs), tensors)
        assert not isinstance(node.target, str) or node.op == "call_method", "only functions and methods keep shapes"
        return self.put_module(node, ModeSwitch(node.target, call), tuple(tensors))

    def replace_dropouts(self) -> None:
        """Replaces functional dropout that acts in training mode only by modules."""
        always = [n for n in self.eval_trace.graph.nodes if n.target in DROPOUTS and _dropout(n)["training"]]
        if always and self.eval_trace is not self.train_trace:
            return
        for node in list(self.train_trace.graph.nodes):
            if node.op == "call_function" and node.target in DROPOUTS:
                given = _dropout(node)
                module = DROPOUTS[node.target](given["p"], given["inplace"])
                self.put_module(node, module, (given["input"],)).meta["same_value"] = True

    def put_module(self, node: fx.Node, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        """Replaces `node` by a call of `module`."""
        graph = self.train_trace.graph
        path = self.free_path(node.name.removeprefix(f"{ROOT}_").strip("_"))
        self.extras[path] = module
        with graph.inserting_before(node):
            made = graph.create_node("call_module", path, args, {})
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        for other in graph.nodes:
            other.meta["mutates"] = [made if n is node else n for n in other.meta.get("mutates", ())]
        for name, feature in self.train_trace.features.items():
            if feature is node:
                self.train_trace.features[name] = made
        graph.erase_node(node)
        return made

    def free_path(self, name: str) -> str:
        taken = set(self.extras) | set(dir(self.trunk))
        candidate, number = name, 1
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        return candidate


def _keeps_shape(node: fx.Node) -> bool:
    """Whether a call turns one tensor into another of the same shape and dtype, as augmentation does."""
    if node.op not in ("call_function", "call_method") or len(node.all_input_nodes) != 1:
        return False
    made, read = node.meta["values"][0], node.all_input_nodes[0].meta["values"][0]
    tensors = isinstance(made, torch.Tensor) and isinstance(read, torch.Tensor)
    return tensors and (made.shape, made.dtype) == (read.shape, read.dtype) and not node.meta.get("mutates")


def _differs(node: fx.Node, other: fx.Node | None) -> str:
    there = f"`{_call(other)}`" if other is not None else "nothing"
    return f"the trunk behaves differently in training and eval mode: `{_call(node)}` in training, {there} in eval"


def _call(node: fx.Node) -> str:
    """A call as it would be written."""
    name = getattr(node.target, "__name__", None) or str(node.target)
    arguments = [*map(str, node.args), *(f"{k}={v}" for k, v in node.kwargs.items())]
    return f"{name}({', '.join(arguments)})"


def _source(node: fx.Node) -> fx.Node:
    """The node that a copy was made of; any other node itself."""
    return node.all_input_nodes[0] if node.meta.get("same_value") else node


def _without_dropout(trace: TracedTrunk) -> None:
    """Removes functional dropout from an eval trace, in which it does nothing."""
    for node in list(trace.graph.nodes):
        if node.op == "call_function" and node.target in DROPOUTS and not _dropout(node)["training"]:
            source = _dropout(node)["input"]
            node.replace_all_uses_with(source)
            for name, feature in trace.features.items():
                if feature is node:
                    trace.features[name] = source
            trace.graph.erase_node(node)


def _dropout(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of functional dropout by name."""
    names = ("input", "p", "train") if node.target is torch.dropout else ("input", "p", "training", "inplace")
    given = {"p": 0.5, "training": True, "inplace": False, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {**given, "training": given.get("train", given["training"])}


def _slots(value: Any, tensors: list[fx.Node]) -> Any:
    """`value` with every node replaced by its slot; the nodes are appended to `tensors`."""

    def slot(item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return item
        tensors.append(item)
        return Slot(len(tensors) - 1)

    return map_structure(slot, value)


def _same_arguments(node: fx.Node, other: fx.Node, same: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether two calls have equal arguments, with `same[a]` as the counterpart of a node `a` of the first."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node):
            return same.get(a) in (b, _source(b) if isinstance(b, fx.Node) else b)
        return type(a) is type(b) and bool(a == b)

    return equal_structure((node.args, node.kwargs), (other.args, other.kwargs), equal)
