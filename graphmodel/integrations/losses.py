"""Computes the loss of a batch for trainers that know nothing of several outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from graphmodel.diagnostics import choices_help, fail
from graphmodel.lower.module import CompiledModel
from graphmodel.training.wrapped import compiled_models

Loss: TypeAlias = Callable[..., torch.Tensor]
Losses: TypeAlias = Loss | Mapping[str, Loss]
"""One function of the model's result and the targets, or a function of each output and its target."""


class BatchLoss:
    """The loss of a model, in all and for each output.

    Args:
        model: the model, or a module that wraps it.
        losses: `loss(result, *targets)`, or `{output: loss(output, target)}`.

    Raises:
        CompileError: GM590 if there is no compiled model, GM594 if a name is not an output of it.
    """

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        self.model: CompiledModel = next(iter(compiled_models(model, type(self).__name__).values()))
        graph = self.model.model_graph
        self.inputs = list(graph.inputs)
        self.outputs = [name for output in graph.outputs.values() for name in output.parts]
        self.losses = losses if callable(losses) else dict(losses)
        for name in () if callable(self.losses) else self.losses:
            if name not in self.outputs:
                message = f"`{name}` has a loss and is not an output of the model"
                raise fail("GM594", message, help=choices_help(name, self.outputs, "outputs"), path="losses")
        if not self.losses:
            raise fail("GM594", "no output has a loss", help=f"outputs: {', '.join(self.outputs)}", path="losses")

    def split(self, batch: Any) -> tuple[dict[str, Any], Any]:
        """A batch as inputs by name, and targets: what a mapping or a sequence holds besides the inputs."""
        if isinstance(batch, Mapping):
            missing = [name for name in self.inputs if name not in batch]
            if missing:
                message = f"the batch has no `{missing[0]}`, which is an input of the model"
                raise fail("GM594", message, help=choices_help(missing[0], list(batch), "keys of the batch"))
            return {n: batch[n] for n in self.inputs}, {k: v for k, v in batch.items() if k not in self.inputs}
        items = list(batch) if isinstance(batch, (tuple, list)) else [batch]
        if len(items) < len(self.inputs):
            message = f"the batch has {len(items)} items and the model {len(self.inputs)} inputs"
            raise fail("GM594", message, help=f"inputs: {', '.join(self.inputs)}")
        return dict(zip(self.inputs, items, strict=False)), tuple(items[len(self.inputs) :])

    def __call__(self, result: Any, targets: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total, and the loss of each output that has one.

        Args:
            result: what the model returned.
            targets: a tuple (one target for all outputs, or one for each), or a mapping: by output, or one entry.
        """
        if callable(self.losses):
            given = targets.values() if isinstance(targets, Mapping) else targets
            return self.losses(result, *given), {}
        outputs = self.by_name(result)
        found = {name: loss(outputs[name], self._target(name, targets)) for name, loss in self.losses.items()}
        return torch.stack([loss.float() for loss in found.values()]).sum(), found

    def by_name(self, result: Any) -> dict[str, torch.Tensor]:
        """The outputs of a result in any form, by their names."""
        if isinstance(result, Mapping):
            return dict(result)
        return dict(zip(self.outputs, _flat(result), strict=True))

    def _target(self, name: str, targets: Any) -> Any:
        if isinstance(targets, Mapping) and name in targets:
            return targets[name]
        values = list(targets.values() if isinstance(targets, Mapping) else targets)
        if len(values) == 1:
            return values[0][name] if isinstance(values[0], Mapping) and name in values[0] else values[0]
        names = list(self.losses) if isinstance(self.losses, dict) else []
        if not isinstance(targets, Mapping) and len(values) == len(names):
            return values[names.index(name)]
        message = f"the batch has no target for the output `{name}`"
        raise fail("GM594", message, help=f"give one target for all outputs, or one for each of {', '.join(names)}")


def _flat(result: Any) -> list[torch.Tensor]:
    """The tensors of a result in the form of a tuple, a nested list, or a tensor."""
    if isinstance(result, (tuple, list)):
        return [tensor for item in result for tensor in _flat(item)]
    return [result]
