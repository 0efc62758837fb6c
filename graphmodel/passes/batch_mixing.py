"""Tells which calls compute each sample of a batch on its own, by following samples through them on the meta device.

Nothing is assumed about a module: it runs without weights, and each operation in it says which samples its result
depends on (`sample_ops`). What cannot be followed mixes the batch, unless its type was registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from graphmodel.components.structure import leaves, map_structure
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import first_line
from graphmodel.graph.evaluate import evaluate
from graphmodel.graph.types import Info, ModelGraph, Node
from graphmodel.passes.purity import as_in_training
from graphmodel.passes.sample_ops import Mixed, along, spread, tensors_in
from graphmodel.passes.sample_watch import BATCHES, Follow, Record, Step, varying_numbers


@dataclass
class Verdict:
    """What is known of one call.

    Attributes:
        reason: why the call mixes samples or may not run once for two batches; empty if it computes each on its own.
        rows: rows of its result for each row of the input if they can be divided by samples; 0 if no sample changes it,
            None if it cannot be divided.
        is_tensor: whether its result is a tensor.
        mutates: whether it changes a value in place that it reads.
    """

    reason: str = ""
    rows: int | None = None
    is_tensor: bool = True
    mutates: bool = False


def follow(graph: ModelGraph, nodes: Sequence[Node], inputs: Mapping[str, Info]) -> dict[str, Verdict]:
    """What each call does to the samples of a batch, in training and in eval mode.

    Args:
        graph: the graph.
        nodes: calls in order, such as those of a trunk pass.
        inputs: what values from outside are, by the name of their node; their first dimension is the batch.

    Returns:
        A verdict for each call, by its name.
    """
    verdicts = {node.name: Verdict() for node in nodes}
    in_eval = _Run(graph, nodes, inputs, False, verdicts)
    in_eval.run()
    in_training = _Run(graph, nodes, inputs, True, verdicts)
    if not in_training.does_as(in_eval):
        in_training.run()
    return verdicts


def mutates(graph: ModelGraph, node: Node) -> bool:
    """Whether a call changes in place what it reads; True if that is unknown."""
    inputs = {name: graph.nodes[name].info for name in node.refs()}
    return follow(graph, [node], inputs)[node.name].mutates


@dataclass
class _Run:
    """The calls in one mode, for each batch size."""

    graph: ModelGraph
    nodes: Sequence[Node]
    inputs: Mapping[str, Info]
    training: bool
    verdicts: dict[str, Verdict]
    steps: dict[str, list[Step]] = field(default_factory=dict)

    def does_as(self, other: _Run) -> bool:
        """Whether this mode makes the very same operations as another."""
        values = self.values(BATCHES[0])
        try:
            for node in self.nodes:
                if self.recorded(node, values, Verdict())[0] != other.steps.get(node.name):
                    return False
        except Exception:  # told in full by `run`
            return False
        return True

    def run(self) -> None:
        plain = [self.values(batch) for batch in BATCHES]
        followed = self.values(BATCHES[0])
        watch = Follow(self.graph)
        for name in self.inputs:
            for tensor in tensors_in(followed[name]):
                number = torch.arange(float(BATCHES[0])).reshape(-1, *[1] * (tensor.ndim - 1))
                watch.owners[tensor] = spread(number, tensor.shape)
        for node in self.nodes:
            verdict = self.verdicts[node.name]
            try:
                recorded = [self.recorded(node, values, verdict) for values in plain[:2]]
                steps = [step for step, _ in recorded]
                self.steps[node.name] = steps[0]
                watch.expect(varying_numbers(steps))
                with self.calling(node), watch:
                    followed[node.name] = evaluate(self.graph, node, followed)
                if recorded[0][1]:
                    raise Mixed("changes its buffers or attributes")
                varying_numbers([steps[0], self.recorded(node, plain[2], verdict)[0]])
                self.divide(verdict, watch, [values[node.name] for values in (followed, *plain)])
            except Mixed as error:
                self.failed(verdict, str(error))
            except Exception as error:  # whatever a module raises without weights and images
                self.failed(verdict, f"cannot be followed without weights: {first_line(error)}")
                verdict.mutates = True
            if verdict.reason:
                self.complete(node, (followed, *plain))

    def failed(self, verdict: Verdict, reason: str) -> None:
        mode = " in training mode" if self.training and "training mode" not in reason else ""
        verdict.reason = verdict.reason or reason + mode
        verdict.rows = None

    def complete(self, node: Node, environments: Sequence[dict[str, Any]]) -> None:
        """Later calls cannot read what failed; they are not followed."""
        for values in environments:
            values.pop(node.name, None)

    def values(self, batch: int) -> dict[str, Any]:
        """The inputs on the meta device."""

        def tensor(leaf: Any) -> Any:
            if not isinstance(leaf, TensorInfo):
                return leaf
            made = torch.empty((batch, *leaf.sample), dtype=getattr(torch, leaf.dtype), device="meta")
            return made.requires_grad_().mul(1) if made.is_floating_point() else made

        return {name: map_structure(tensor, info) for name, info in self.inputs.items()}

    def recorded(self, node: Node, values: dict[str, Any], verdict: Verdict) -> tuple[list[Step], bool]:
        """The operations that a call makes, and whether it changes its module; adds its result to the values."""
        missing = [name for name in node.refs() if name not in values]
        if missing:
            raise Mixed(f"reads `{missing[0]}`, which mixes the batch")
        module = self.graph.module_of(node)
        state = _state(module)
        read = [(t, t._version) for name in node.refs() for t in tensors_in(_listed(values[name]))]
        record = Record(self.graph)
        with self.calling(node), record:
            values[node.name] = evaluate(self.graph, node, values)
        verdict.mutates |= any(t._version != version for t, version in read)
        if record.random:
            raise Mixed(f"draws random numbers{record.source}")
        if any(_custom(t) for t in tensors_in(_listed(values[node.name]))):
            raise Mixed("has a gradient of its own (`torch.autograd.Function`)")
        return record.steps, _state(module) != state

    @contextmanager
    def calling(self, node: Node) -> Iterator[None]:
        module = self.graph.module_of(node)
        modes = [(m, m.training) for m in module.modules()] if module is not None else []
        frozen = self.graph.frozen
        inside = (
            as_in_training(module, str(node.target), frozen) if module is not None and self.training else nullcontext()
        )
        for part, _ in modes:
            part.training = False
        try:
            with inside, torch.enable_grad(), torch.device("meta"):
                yield
        finally:
            for part, mode in modes:
                part.training = mode

    def divide(self, verdict: Verdict, watch: Follow, results: list[Any]) -> None:
        """Whether a result's rows can be divided by samples."""
        value, first, second, single = results
        verdict.is_tensor = isinstance(value, torch.Tensor)
        if not verdict.is_tensor:
            return
        found = watch.owners.get(value)
        fixed = first.shape == second.shape
        rows: int | None = None
        if found is None:
            rows = 0 if fixed else None
        elif found.ndim and found.shape[0] and found.shape[0] % BATCHES[0] == 0:
            count = found.shape[0] // BATCHES[0]
            expected = torch.arange(float(BATCHES[0])).repeat_interleave(count)
            try:
                owner = along(found, range(1, found.ndim)).flatten().expand(found.shape[0])
                same = bool((owner == expected).all()) and first.shape[1:] == second.shape[1:] == single.shape[1:]
                rows = count if same and single.shape[0] == count else None
            except Mixed:
                rows = None
        known = self.training and verdict.rows != rows
        verdict.rows = None if known else rows


def _listed(value: Any) -> list[Any]:
    return list(leaves(value))


def _state(module: nn.Module | None) -> Any:
    """What tells whether a call changed something of a module."""
    if module is None:
        return None
    plain = (int, float, bool, str, type(None))
    return [
        (
            name,
            [(k, b if b is None else b._version, id(b)) for k, b in part._buffers.items()],
            [(k, v if isinstance(v, plain) else id(v)) for k, v in part.__dict__.items() if k != "training"],
        )
        for name, part in module.named_modules()
    ]


def _custom(tensor: torch.Tensor) -> bool:
    """Whether Python code computes a part of a tensor's gradient."""
    seen, left = set(), [tensor.grad_fn]
    while left:
        step = left.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if isinstance(step, torch.autograd.function.BackwardCFunction):
            return True
        left += [following for following, _ in step.next_functions]
    return False
