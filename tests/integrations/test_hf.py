"""Hugging Face's Trainer and Accelerate train a compiled model with the numbers of a plain loop."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import graphmodel
from tests.integrations.helpers import (
    BATCH,
    DECAY,
    IMAGES,
    LABELS,
    ONE,
    RATE,
    SPEC,
    assert_same_state,
    optimizer_of,
    plain_loop,
)

pytestmark = pytest.mark.slow

transformers: Any = pytest.importorskip("transformers")
accelerate: Any = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _own_accelerator() -> None:
    """Accelerate keeps its settings for the process."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def trainer_model(model: Any, *args: Any) -> Any:
    from graphmodel.integrations.hf import TrainerModel

    return TrainerModel(model, *args)


def items() -> list[dict[str, torch.Tensor]]:
    return [{"images": x, "labels": y} for x, y in zip(IMAGES, LABELS, strict=True)]


def trainer(model: Any, **options: Any) -> Any:
    class InOrder(transformers.Trainer):  # type: ignore[misc]
        """A plain loop takes the images in order; Trainer shuffles."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        str(Path("out").absolute()),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=DECAY,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return InOrder(model=model, args=arguments, train_dataset=items(), **options)


def test_trainer_is_equal_to_a_plain_loop() -> None:
    model, by_hand = graphmodel.compile(ONE, seed=0), graphmodel.compile(ONE, seed=0)
    made = trainer(trainer_model(model), optimizers=(optimizer_of(model), None))
    made.train()
    wanted = plain_loop(by_hand, clip=1.0)
    found = [float(entry["loss"]) for entry in made.state.log_history if "loss" in entry]
    assert found == pytest.approx(wanted, rel=1e-3)  # rounded in the log
    assert_same_state(model, by_hand)


def test_trainer_needs_nothing_but_the_model_and_writes_checkpoints_that_load() -> None:
    wrapped = trainer_model(graphmodel.compile(ONE, seed=0))
    made = trainer(wrapped, eval_dataset=items())
    before = made.evaluate()["eval_loss"]
    made.args.num_train_epochs = 4
    made.train()
    assert made.evaluate()["eval_loss"] < before
    assert made.predict(items()).predictions.shape == (len(IMAGES), 4)
    made.save_model("saved")
    from safetensors.torch import load_file

    other = trainer_model(graphmodel.compile(ONE, seed=1))
    other.load_state_dict(load_file("saved/model.safetensors"))
    assert_same_state(other, wrapped)


def test_several_outputs_have_a_loss_each_and_forward_names_the_inputs() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    wrapped = trainer_model(model, {"digit": F.cross_entropy, "even": lambda x, y: F.cross_entropy(x, y % 2)})
    assert list(inspect.signature(wrapped.forward).parameters) == ["images", "labels"]
    result = wrapped(images=IMAGES, labels=LABELS)
    out = model(IMAGES)
    wanted = F.cross_entropy(out["digit"], LABELS) + F.cross_entropy(out["even"], LABELS % 2)
    torch.testing.assert_close(result["loss"], wanted)
    assert list(result["logits"]) == ["digit", "even"]
    assert list(wrapped(images=IMAGES)) == ["logits"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_is_equal_to_a_plain_loop(precision: str) -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model, by_hand = graphmodel.compile(ONE, seed=0), graphmodel.compile(ONE, seed=0)
    loader = torch.utils.data.DataLoader(list(zip(IMAGES, LABELS, strict=True)), batch_size=BATCH)
    run, optimizer, loader = accelerator.prepare(model, optimizer_of(model), loader)
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(run(x)["digit"], y)
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    if precision == "no":
        assert losses == plain_loop(by_hand)
        assert_same_state(accelerator.unwrap_model(run), by_hand)
    else:
        assert losses == pytest.approx(plain_loop(by_hand, bf16=True), rel=0.05)
        assert losses[-1] != plain_loop(graphmodel.compile(ONE, seed=0))[-1]
