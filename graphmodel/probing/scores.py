"""Accuracy, top-5 accuracy and loss of class scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

TOP = 5


@dataclass
class Scores:
    """Sums over the samples so far.

    Attributes:
        samples: their number.
        correct: how many have the highest score at their label.
        near: how many have their label among the five highest scores.
        loss: the sum of their cross-entropies.
        wide: whether there are more than five classes.
    """

    samples: int = 0
    correct: int = 0
    near: int = 0
    loss: float = 0.0
    wide: bool = False

    def add(self, scores: torch.Tensor, labels: torch.Tensor, *, loss: bool = True) -> None:
        """Adds samples; a score that is not a number is never the highest.

        Args:
            scores: `(N, classes)`.
            labels: `(N,)`; a label without a score counts as wrong.
            loss: whether the scores are logits.
        """
        scores = scores.detach()
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        if loss:
            self.loss += float(F.cross_entropy(scores, labels, reduction="sum"))
        usable = scores.isfinite().all(1)
        self.samples += len(labels)
        self.correct += int(((scores.argmax(1) == labels) & usable).sum())
        self.wide = scores.shape[1] > TOP
        if self.wide:
            near = (scores.topk(TOP, 1).indices == labels[:, None]).any(1)
            self.near += int((near & usable).sum())

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples

    @property
    def top5(self) -> float | None:
        return self.near / self.samples if self.wide else None

    @property
    def mean_loss(self) -> float | None:
        """The mean cross-entropy; None if it is not finite."""
        return self.loss / self.samples if math.isfinite(self.loss) else None
