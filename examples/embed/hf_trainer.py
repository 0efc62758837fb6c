"""Hugging Face's Trainer: `TrainerModel` returns loss and logits, and is all that `Trainer` needs.

python examples/embed/hf_trainer.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from digits import TRUNK, digits, nearest_neighbours, summary, view
from transformers import Trainer, TrainingArguments

import graphmodel
from graphmodel.integrations.hf import TrainerModel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 16, 16]},
    "trunk": TRUNK,
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}},
}


def items(images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"images": x, "labels": y} for x, y in zip(images, labels, strict=True)]


def main(epochs: int = 6) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = digits()
    images, labels, test_images, test_labels = data
    model = TrainerModel(graphmodel.compile(SPEC, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=5e-3,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=items(view(images), labels),
            eval_dataset=items(test_images, test_labels),
            compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(1) == found.label_ids).mean()},
        )
        trainer.train()
        accuracy = float(trainer.evaluate()["eval_accuracy"])
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    untrained = nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
