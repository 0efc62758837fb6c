"""Mixed precision by torch.amp trains compiled models as it trains the modules they are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": "torchvision:resnet18",
    "heads": {"label": {"mlp": {"dims": ["auto", 4]}}},
    "returns": "tensor",
}


class ByHand(nn.Module):
    """The same model without graphmodel."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.trunk, self.head = torchvision.models.resnet18(), nn.Linear(512, 4)
        self.trunk.fc = nn.Identity()
        state = model.state_dict()
        self.trunk.load_state_dict({k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")})
        self.head.load_state_dict({k.rpartition(".")[2]: v for k, v in state.items() if k.startswith("heads.")})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.trunk(images))
        return result


def train(model: nn.Module, dtype: torch.dtype, scaled: bool) -> tuple[list[torch.Tensor], torch.dtype]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=256.0)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(3):
        images = torch.randn(8, 3, 32, 32, generator=generator)
        with torch.autocast("cpu", dtype=dtype):
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, torch.arange(8) % 4)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses, logits.dtype


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "scaled"), [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, True)])
def test_autocast_and_scaled_gradients_give_the_numbers_of_a_module_by_hand(dtype: torch.dtype, scaled: bool) -> None:
    model = graphmodel.compile(SPEC, seed=0)
    by_hand = ByHand(model)
    found, wanted = train(model, dtype, scaled), train(by_hand, dtype, scaled)
    assert found[1] == wanted[1] == dtype
    assert [loss.item() for loss in found[0]] == [loss.item() for loss in wanted[0]]
    assert all(p.dtype == torch.float32 for p in model.parameters())
