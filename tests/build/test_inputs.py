"""Trunks that cannot run on their inputs: the message points to the cause."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel
from graphmodel.diagnostics import Diagnostic


def findings(spec: dict[str, Any]) -> list[Diagnostic]:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    return caught.value.diagnostics


@pytest.mark.parametrize("trunk", [{"name": "resnet", "depth": 18}, {"name": "timm:resnet18"}])
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
