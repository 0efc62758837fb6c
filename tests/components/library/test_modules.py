"""Modules of no library have `flatten`, their result averaged over all positions, if its channels come first."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel


class Convolutions(nn.Module):
    """Three convolutions in two or three dimensions."""

    def __init__(self, dims: int, last: Any = None) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.stem = conv(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(conv(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.layer2 = conv(16, 32, 3, stride=2, padding=1)
        self.last = last

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layer2(self.layer1(self.stem(x)))
        return x if self.last is None else self.last(x)


def read(trunk: nn.Module, shape: list[int]) -> Any:
    spec = {"inputs": {"x": shape}, "trunk": {"module": "mine:Trunk"}, "mapping": {"x": {"flatten": {"as": "y"}}}}
    return graphmodel.compile(spec, trunks={"trunk": trunk}, seed=0).eval()


@pytest.mark.parametrize(("dims", "size", "other"), [(2, [32, 32], [48, 16]), (3, [8, 32, 32], [4, 48, 16])])
def test_flatten_is_the_mean_over_all_positions(dims: int, size: list[int], other: list[int]) -> None:
    trunk = Convolutions(dims).eval()
    model = read(copy.deepcopy(trunk), [3, *size])
    for shape in (size, other):
        x = torch.randn(2, 3, *shape)
        torch.testing.assert_close(model(x)["y"], trunk(x).flatten(2).mean(2))


@pytest.mark.parametrize(
    "last", [lambda x: x.permute(0, 2, 3, 1), lambda x: {"map": x}, lambda x: x.flatten(2)], ids=["nhwc", "dict", "nlc"]
)
def test_what_is_no_map_with_its_channels_first_is_refused(last: Any) -> None:
    with pytest.raises(graphmodel.CompileError, match="`flatten` is the average of a map with its channels first") as e:
        read(Convolutions(2, last), [3, 32, 32])
    assert [d.code for d in e.value.diagnostics] == ["GM306"]


def test_a_part_of_that_name_comes_first() -> None:
    trunk = nn.Sequential()
    for name, layer in {"conv": nn.Conv2d(3, 4, 2, 2), "flatten": nn.Flatten(), "rest": nn.Linear(64, 2)}.items():
        trunk.add_module(name, layer)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(read(trunk, [3, 8, 8])(x)["y"], trunk.eval()[1](trunk[0](x)))
