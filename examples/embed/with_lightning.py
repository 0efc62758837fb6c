"""PyTorch Lightning: `LightningModel` takes a spec and a loss for each output.

python examples/embed/with_lightning.py
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from digits import TRUNK, digits, nearest_neighbours, summary, view
from torch.utils.data import DataLoader

from graphmodel.integrations.lightning import LightningModel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 16, 16]},
    "trunk": TRUNK,
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}, "even": {"mlp": {"dims": ["auto", 2]}}},
}
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.found.append(outputs["loss"].item())


def main(epochs: int = 6) -> tuple[list[float], float, float]:
    lightning.seed_everything(0, verbose=False)
    data = digits()
    images, labels, test_images, test_labels = data
    targets = [{"digit": label, "even": label % 2} for label in labels]
    loader = DataLoader(list(zip(view(images), targets, strict=True)), batch_size=64, shuffle=True)
    losses = {"digit": F.cross_entropy, "even": F.cross_entropy}
    module = LightningModel(SPEC, losses, lr=5e-3, weight_decay=0.05, layer_decay=0.8)
    seen = Losses()
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[seen], **QUIET)
    trainer.fit(module, loader)
    module.eval()
    with torch.no_grad():
        accuracy = (module(test_images)["digit"].argmax(1) == test_labels).float().mean().item()
    untrained = nearest_neighbours(data)
    summary(seen.found, accuracy, untrained)
    return seen.found, accuracy, untrained


if __name__ == "__main__":
    main()
