"""Trunks that cannot run on their inputs: the message points to the cause."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.diagnostics import Diagnostic


def findings(spec: dict[str, Any]) -> list[Diagnostic]:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    return caught.value.diagnostics


@pytest.mark.parametrize(
    "trunk", [{"name": "resnet", "depth": 18, "width_multiplier": 0.25}, {"name": "timm:resnet18"}]
)
def test_inputs_with_other_channel_counts_need_two_trunks(trunk: dict[str, Any]) -> None:
    spec = {
        "inputs": {"color": [3, 64, 64], "depth": [1, 64, 64]},
        "trunk": trunk,
        "mapping": [{"from": f"{name}.flatten", "as": name} for name in ("color", "depth")],
    }
    (found,) = findings(spec)
    assert "`depth`" in found.message
    assert "1 and 3 channels" in found.help
    assert "two trunks" in found.help
    assert "in_chans" not in found.help


@pytest.mark.parametrize(
    ("family", "feature"), [("timm:swin_tiny_patch4_window7_224", "stage2"), ("timm:vit_tiny_patch16_224", "blocks.3")]
)
def test_a_size_that_fails_is_reported_before_the_layout(family: str, feature: str) -> None:
    def spec(**options: Any) -> dict[str, Any]:
        source = {"from": f"images.{feature}", "as": "map", **options}
        return {"inputs": {"images": [3, 250, 250]}, "trunk": family, "mapping": [source]}

    plain, with_layout = findings(spec()), findings(spec(layout="nchw"))
    assert [(d.code, d.message, d.help) for d in with_layout] == [(d.code, d.message, d.help) for d in plain]
    assert "250" in with_layout[0].message


class Fixed(nn.Module):
    """A block for maps of 8×8 that hands on the size beside the tokens."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        return x.reshape(len(x), 3, 8, 8), (8, 8)


class HandsOnSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Fixed(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.block(x)
        return self.last(x)


def test_a_block_that_fails_and_returns_several_values_is_reported_with_its_own_error() -> None:
    spec = {"inputs": {"x": [3, 7, 7]}, "trunk": "given", "mapping": {"x": {"last": {"as": "out"}}}}
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, trunks={"trunk": HandsOnSizes()})
    (found,) = caught.value.diagnostics
    assert "RuntimeError: shape '[2, 3, 8, 8]' is invalid for input of size" in found.message
