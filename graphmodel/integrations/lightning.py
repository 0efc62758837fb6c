"""A LightningModule around a compiled model, and a callback that freezes parameters until a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphmodel.api import compile
from graphmodel.integrations import require
from graphmodel.integrations.losses import BatchLoss, Losses
from graphmodel.training.freeze_until import FreezeUntil
from graphmodel.training.groups import param_groups
from graphmodel.training.teacher import update_teacher

require("lightning", "lightning")

import lightning  # noqa: E402 (its absence is explained first)


class LightningModel(lightning.LightningModule):
    """Trains a compiled model with Lightning.

    A batch is a mapping with the model's inputs by name and targets, or a sequence: first the inputs in the order of
    the spec, then the targets. `train_loss` and `val_loss` are logged, and with several losses `train_loss/OUTPUT`. The
    compiled model is `self.model`, so state-dict keys start with `model.`; for anything else, subclass it.

    Example:
        >>> import graphmodel, torch, torch.nn.functional as F
        >>> from graphmodel.integrations.lightning import LightningModel
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> spec["heads"] = {"label": {"mlp": {"dims": ["auto", 10]}}}
        >>> module = LightningModel(spec, {"label": F.cross_entropy}, lr=0.1, optimizer=torch.optim.SGD)
        >>> module.training_step((torch.randn(2, 3, 32, 32), torch.tensor([3, 8])), 0).shape
        torch.Size([])

    Args:
        model: a compiled model, or a spec in any form that `compile` takes.
        losses: a function of each output that trains and its target, by name; or one function of the model's result and
            the targets.
        lr: the learning rate.
        weight_decay: the weight decay.
        optimizer: makes the optimizer of parameter groups; AdamW by default.
        scheduler: makes a scheduler of the optimizer, which advances with each step.
        teachers: student by teacher, as for `update_teacher`; None for the frozen copies in the spec.
        momentum: the teachers' momentum, or a function of the step. Teachers are updated after each step of the
            optimizer, unless it is None.
        groups: further arguments of `param_groups`, such as `trunk_lr` and `layer_decay`.

    Raises:
        CompileError: what is wrong with the spec; GM594 if a loss names an output that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module | str | Path | Mapping[str, Any],
        losses: Losses,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        teachers: Mapping[str, str] | None = None,
        momentum: float | Callable[[int], float] | None = None,
        **groups: Any,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, nn.Module) else compile(model)
        self._loss = BatchLoss(self.model, losses)
        self._groups = {"lr": lr, "weight_decay": weight_decay, **groups}
        self._optimizer, self._scheduler = optimizer, scheduler
        self._teachers, self._momentum = teachers, momentum

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the compiled model returns."""
        return self.model(*args, **kwargs)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss of a batch of the validation set."""
        return self._step(batch, "val")

    def _step(self, batch: Any, stage: str) -> torch.Tensor:
        inputs, targets = self._loss.split(batch)
        total, parts = self._loss(self.model(**inputs), targets)
        if self._trainer is not None:
            self.log(f"{stage}_loss", total, prog_bar=True)
            if len(parts) > 1:
                self.log_dict({f"{stage}_loss/{name}": loss for name, loss in parts.items()})
        return total

    def configure_optimizers(self) -> Any:
        """The optimizer over `param_groups`, and the scheduler if there is one."""
        optimizer = self._optimizer(param_groups(self, **self._groups))
        if self._scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self._scheduler(optimizer), "interval": "step"}]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimizer, then of the teachers."""
        super().optimizer_step(*args, **kwargs)
        if self._momentum is not None:
            momentum = self._momentum(self.global_step) if callable(self._momentum) else self._momentum
            update_teacher(self.model, momentum, pairs=self._teachers)


class FreezeUntilCallback(lightning.Callback):
    """Calls `FreezeUntil` before each step of the optimizer (VISSL's `TEMP_FROZEN_PARAMS_ITER_MAP`).

    Args:
        steps: as for `FreezeUntil`.
    """

    def __init__(self, steps: Mapping[str, int] | None = None) -> None:
        self.steps = steps

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Finds the parameters, so that a name that covers none is an error before training."""
        self.frozen = FreezeUntil(pl_module, self.steps)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Drops gradients before they are clipped."""
        self.frozen(trainer.global_step)
