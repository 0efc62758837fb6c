"""`fpn` is a feature pyramid; its outputs have the names of the features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import assert_same, built


class Pyramid(nn.Module):
    """The pyramid of Lin et al. 2017, with the further levels of Faster R-CNN or RetinaNet."""

    def __init__(self, widths: list[int], out: int, extra: str) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, out, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in widths)
        self.further = nn.ModuleList()
        if extra == "p6p7":
            self.further.extend([nn.Conv2d(widths[-1], out, 3, 2, 1), nn.Conv2d(out, out, 3, 2, 1)])
        self.extra = extra

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        maps = list(features.values())
        top = self.lateral[-1](maps[-1])
        merged = [top]
        for i in range(len(maps) - 2, -1, -1):
            top = self.lateral[i](maps[i]) + F.interpolate(top, maps[i].shape[2:], mode="nearest")
            merged.insert(0, top)
        found = {name: layer(x) for name, layer, x in zip(features, self.smooth, merged, strict=True)}
        if self.extra == "pool":
            found["pool"] = list(found.values())[-1][:, :, ::2, ::2]
        if self.extra == "p6p7":
            found["p6"] = self.further[0](maps[-1])
            found["p7"] = self.further[1](F.relu(found["p6"]))
        return found


@pytest.mark.parametrize("extra", ["none", "pool", "p6p7"])
def test_it_is_the_pyramid_of_its_paper(extra: str) -> None:
    head = built("fpn", in_channels=[6, 8, 10], out_channels=4, extra=extra)
    reference = Pyramid([6, 8, 10], 4, extra)
    assert_same(
        head, reference, (2, 6, 12, 16), (2, 8, 6, 8), (2, 10, 3, 4), given=lambda t: dict(zip("abc", t, strict=True))
    )


SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 64, 96]},
    "trunk": {"name": "resnet", "depth": 18},
    "heads": {"fpn": {"fpn": {"out_channels": 8, "extra": "pool"}}},
    "mapping": [{"from": ["images.res3", "images.layer3", "images.res5"], "head": "fpn"}],
}


def test_outputs_have_the_names_of_features_and_the_numbers_of_the_pyramid() -> None:
    model = graphmodel.compile(SPEC, seed=0).eval()
    features = {"mapping": [{"from": f"images.{name}", "as": name} for name in ("res3", "res4", "res5")], "heads": {}}
    maps = graphmodel.compile({**SPEC, **features}, seed=0).eval()
    maps.load_state_dict(model.state_dict(), strict=False)
    reference = Pyramid([128, 256, 512], 8, "pool").eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), model.heads.fpn.state_dict().values(), strict=True)))
    for size in ((64, 96), (72, 100)):
        x = torch.randn(2, 3, *size)
        found, expected = model(x), reference(maps(x))
        assert list(found) == ["fpn.res3", "fpn.layer3", "fpn.res5", "fpn.pool"]
        torch.testing.assert_close(list(found.values()), list(expected.values()))


def test_a_level_can_be_selected_and_read_by_a_head() -> None:
    spec = {
        **SPEC,
        "heads": {**SPEC["heads"], "box": {"conv1x1": {"out_channels": 4}}},
        "mapping": [*SPEC["mapping"], {"from": "fpn.layer3", "head": "box"}],
        "outputs": ["fpn.pool", "box"],
    }
    found = graphmodel.compile(spec, seed=0)(torch.randn(2, 3, 64, 96))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "fpn.pool": (2, 8, 1, 2),
        "box": (2, 4, 4, 6),
    }


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"heads": {"fpn": {"fpn": {"in_channels": [128, 256]}}}}, "GM304", "wants 2 features and reads 3"),
        ({"heads": {"fpn": {"fpn": {"in_channels": [128, 9, 512]}}}}, "GM304", "wants 9 features"),
        ({"heads": {"fpn": {"fpn": {"extra": "p6"}}}}, "GM202", "p6p7"),
        ({"mapping": [{"from": ["images.res3", "images.flatten"], "head": "fpn"}]}, "GM304", "wants a feature map"),
        (
            {
                "mapping": [
                    {"from": [{"from": "images.res3", "as": "a"}, {"from": "images.res4", "as": "a"}], "head": "fpn"}
                ]
            },
            "GM306",
            "two features of a dict have the key `a`",
        ),
    ],
)
def test_what_a_pyramid_cannot_read_is_said(change: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(CompileError) as caught:
        graphmodel.compile({**SPEC, **change}, device="meta")
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert text in str(caught.value)
