"""A compiled model for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from graphmodel.integrations import require
from graphmodel.integrations.losses import BatchLoss, Losses

require("transformers", "hf")


class TrainerModel(nn.Module):
    """A model that computes its loss, as transformers' `Trainer` wants it.

    `forward` takes the inputs by name and `labels`, and returns a dict: `loss` (if there are labels) and `logits`, the
    output's tensor, or a dict of them if the model has several. Items of the data set are dicts of the same names, such
    as `{"images": …, "labels": …}`. The compiled model is `self.model`, so state-dict keys start with `model.`.

    Example:
        >>> import graphmodel, torch
        >>> from graphmodel.integrations.hf import TrainerModel
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> wrapped = TrainerModel(model)
        >>> result = wrapped(images=torch.randn(2, 3, 32, 32), labels=torch.tensor([3, 8]))
        >>> {name: tuple(value.shape) for name, value in result.items()}
        {'loss': (), 'logits': (2, 10)}

    Args:
        model: what `compile` or `load` returned.
        losses: a function of each output that trains and its labels, by name, or one function of the model's result and
            the labels. Cross-entropy of every output by default. With several functions, `labels` may be a dict.

    Raises:
        CompileError: GM590 if `model` is not a compiled model, GM594 if a name is not an output.
    """

    def __init__(self, model: nn.Module, losses: Losses | None = None) -> None:
        super().__init__()
        if losses is None:
            names = BatchLoss(model, lambda result: result).outputs
            losses = dict.fromkeys(names, nn.functional.cross_entropy)
        self.model = model
        self._loss = BatchLoss(model, losses)
        # Trainer keeps the columns of a data set that the signature of `forward` names.
        self.forward = _Forward(self)  # type: ignore[method-assign]

    def forward(self, *inputs: Any, labels: Any = None) -> dict[str, Any]:
        """The loss and the outputs; each module's own `forward` names its inputs."""
        result = self.model(*inputs)
        outputs = self._loss.by_name(result)
        logits = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        if labels is None:
            return {"logits": logits}
        total, _ = self._loss(result, labels if isinstance(labels, Mapping) else (labels,))
        return {"loss": total, "logits": logits}


class _Forward:
    """`forward` with a signature that names the model's inputs."""

    def __init__(self, module: TrainerModel) -> None:
        self.module = module
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [inspect.Parameter(name, kind) for name in module._loss.inputs]
        self.__signature__ = inspect.Signature([*names, inspect.Parameter("labels", kind, default=None)])

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given = self.__signature__.bind(*args, **kwargs).arguments
        labels = given.pop("labels", None)
        return TrainerModel.forward(self.module, *given.values(), labels=labels)
