from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel.components.heads.msn_head import MsnHead, MsnParams

SMALL: dict[str, Any] = {"in_dim": 12, "num_prototypes": 6, "hidden_dim": 16, "output_dim": 8}
X = torch.randn(5, 12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_assignments_are_the_softmax_over_prototypes_times_their_labels(smoothing: float) -> None:
    head = MsnHead(MsnParams(**SMALL, label_smoothing=smoothing, temperature=0.5)).eval()
    labels = torch.eye(6) * (1 - smoothing) + smoothing / 6
    query = F.normalize(head.fc(X), dim=1)
    prototypes = head.prototypes / head.prototypes.norm(dim=1, keepdim=True)
    want = F.softmax(query @ prototypes.T / 0.5, 1) @ labels
    torch.testing.assert_close(head(X), want)
    torch.testing.assert_close(head(X).sum(1), torch.ones(5))


def test_the_query_is_the_unit_projection() -> None:
    head = MsnHead(MsnParams(**SMALL, return_query=True)).eval()
    torch.testing.assert_close(head(X), F.normalize(head.fc(X), dim=1))


def test_layers_go_by_their_names() -> None:
    head = MsnHead(MsnParams(**SMALL, use_bn=True))
    assert [n for n, _ in head.fc.named_children()] == ["fc1", "bn1", "gelu1", "fc2", "bn2", "gelu2", "fc3"]
    reference = nn.Sequential(
        nn.Linear(12, 16),
        nn.BatchNorm1d(16),
        nn.GELU(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16),
        nn.GELU(),
        nn.Linear(16, 8),
    )
    for ours, theirs in zip(head.fc.state_dict().values(), reference.state_dict().values(), strict=True):
        theirs.copy_(ours)
    torch.testing.assert_close(head.fc(X), reference(X))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_prototypes_do_not_train(frozen: bool) -> None:
    head = MsnHead(MsnParams(**SMALL, freeze_prototypes=frozen))
    assert head.prototypes.requires_grad is not frozen
    assert head.prototypes.abs().max() <= 8**-0.5


def test_tokens_are_refused() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "vision_transformer", "image_size": 32, "num_layers": 1, "hidden_dim": 24, "num_heads": 2},
        "heads": {"msn": {"msn_head": {"num_prototypes": 4}}},
        "mapping": [{"from": "images.lastBLK", "head": "msn"}],
    }
    with pytest.raises(graphmodel.CompileError, match="one vector per sample"):
        graphmodel.compile(spec)
