"""Lightning trains a compiled model with the very numbers of a plain loop."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import graphmodel
from tests.integrations.helpers import BATCH, DECAY, IMAGES, LABELS, RATE, SPEC, assert_same_state, plain_loop

pytestmark = pytest.mark.slow

lightning: Any = pytest.importorskip("lightning")
LOSSES = {"digit": F.cross_entropy, "even": F.cross_entropy}


class Record(lightning.Callback):  # type: ignore[misc]
    """The losses, and what is logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.logged: set[str] = set()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.logged |= set(trainer.logged_metrics)


def fit(module: Any, items: list[Any], *callbacks: Any, **options: Any) -> Record:
    record = Record()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[record, *callbacks], **quiet, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers
        trainer.fit(module, DataLoader(items, batch_size=BATCH))
    return record


def items() -> list[Any]:
    return [(x, {"digit": y, "even": y % 2}) for x, y in zip(IMAGES, LABELS, strict=True)]


def lightning_model(spec: Any = SPEC, losses: Any = LOSSES, **options: Any) -> Any:
    from graphmodel.integrations.lightning import LightningModel

    return LightningModel(spec, losses, lr=RATE, weight_decay=DECAY, **options)


def test_lightning_is_bit_equal_to_a_plain_loop() -> None:
    module = lightning_model(graphmodel.compile(SPEC, seed=0))
    by_hand = graphmodel.compile(SPEC, seed=0)
    record = fit(module, items())
    assert record.losses == plain_loop(by_hand, ("digit", "even"))
    assert_same_state(module.model, by_hand)
    assert record.logged >= {"train_loss", "train_loss/digit", "train_loss/even"}


def test_a_batch_may_be_a_mapping_and_a_loss_may_read_the_whole_result() -> None:
    def total(result: dict[str, torch.Tensor], digit: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.cross_entropy(result["digit"], digit), F.cross_entropy(result["even"], digit % 2)]).sum()

    module = lightning_model(graphmodel.compile(SPEC, seed=0), total)
    mappings = [{"images": x, "label": y} for x, y in zip(IMAGES, LABELS, strict=True)]
    assert fit(module, mappings).losses == plain_loop(graphmodel.compile(SPEC, seed=0), ("digit", "even"))


def test_bf16_precision_gives_the_losses_of_autocast() -> None:
    module = lightning_model(graphmodel.compile(SPEC, seed=0))
    losses = fit(module, items(), precision="bf16-mixed").losses
    assert losses == plain_loop(graphmodel.compile(SPEC, seed=0), ("digit", "even"), bf16=True)
    assert losses != plain_loop(graphmodel.compile(SPEC, seed=0), ("digit", "even"))


def test_teachers_follow_and_parameters_train_from_their_step_on() -> None:
    from graphmodel.integrations.lightning import FreezeUntilCallback

    trunks = {"student": SPEC["trunk"], "teacher": {"copy": "student"}}
    mapping = {"images": {"student.flatten": "digit", "teacher.flatten": {"as": "target"}}}
    spec = {"inputs": SPEC["inputs"], "trunks": trunks, "heads": {"digit": SPEC["heads"]["digit"]}, "mapping": mapping}
    module = lightning_model(graphmodel.compile(spec, seed=0), {"digit": F.cross_entropy}, momentum=0.0)
    before = module.model.heads.digit.clf[0].weight.clone()
    fit(module, items(), FreezeUntilCallback({"heads.digit": 100}))
    assert torch.equal(module.model.heads.digit.clf[0].weight, before)
    assert_same_state(module.model.trunks.teacher, module.model.trunks.student)
    fresh = graphmodel.compile(spec, seed=0)
    assert not torch.equal(fresh.trunks.student.stem[0].weight, module.model.trunks.student.stem[0].weight)


def test_the_scheduler_advances_with_each_step() -> None:
    module = lightning_model(scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))
    fit(module, items())
    rates = {group["lr"] for group in module.optimizers().optimizer.param_groups}
    assert rates == {RATE * 0.5 ** (len(IMAGES) // BATCH)}


def test_a_loss_for_an_unknown_output_is_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="`digits` has a loss") as caught:
        lightning_model(losses={"digits": F.cross_entropy})
    assert "digit" in str(caught.value)
