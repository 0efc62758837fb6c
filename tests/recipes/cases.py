"""What a recipe is compared with: a module by hand, its loss, and how both get the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A recipe at a small size, and the same model by hand.

    Attributes:
        small: overrides that make the recipe small.
        reference: makes the model by hand; it takes the recipe's inputs and returns its outputs by name.
        parts: modules of the recipe by the names of the same modules in the reference.
        inputs: makes a batch.
        loss: the method's loss, of the outputs.
        teachers: students by teacher, names of the reference.
    """

    small: Sequence[str]
    reference: Callable[[], nn.Module]
    parts: Mapping[str, str]
    inputs: Callable[[], Sequence[Any]]
    loss: Callable[[Outputs], torch.Tensor]
    teachers: Mapping[str, str] = field(default_factory=dict)


def images(count: int, size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, size, size, dtype=torch.float64)


def trunk() -> nn.Module:
    """A ResNet-18 without its classifier."""
    model = resnet18()
    model.fc = nn.Identity()
    return model


def labels(count: int, classes: int) -> torch.Tensor:
    return torch.arange(count) % classes


def cross_entropy_to(target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of scores and target probabilities."""
    return -(target * F.log_softmax(scores, -1)).sum(-1).mean()
