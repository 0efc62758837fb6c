"""Modules on the meta device, and copies of them there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graphmodel
from graphmodel import CompileError
from graphmodel.components import construct
from graphmodel.components.construct import TooManyModules, build_on_meta, limited, meta_copy


class ByArithmetic(nn.Module):
    """Computes its widths with tensors, as torchvision's RegNet does."""

    def __init__(self) -> None:
        super().__init__()
        widths = torch.arange(3) * 8 + 8
        self.convs = nn.ModuleList(nn.Conv2d(3, int(w), 1) for w in widths.tolist())


class Mixed(nn.Module):
    """Mixes its parameters with tensors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("scaled", self.weight.detach() * torch.arange(4.0))


class ByValue(nn.Module):
    """Looks at numbers, which meta tensors do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.fc = nn.Linear(4, int((self.weight * torch.ones(4)).sum()))


@pytest.mark.parametrize("build", [ByArithmetic, Mixed, ByValue])
def test_any_constructor_ends_on_meta_with_its_own_shapes(build: Callable[[], nn.Module]) -> None:
    module, real = build_on_meta(build), build()
    assert all(t.is_meta for t in module.state_dict().values())
    assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_on_meta(ByValue)
    assert torch.equal(torch.rand(1), expected)


def test_what_a_constructor_refuses_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="no such width"):
        build_on_meta(lambda: (_ for _ in ()).throw(RuntimeError("no such width")))


def test_a_copy_on_meta_keeps_shared_tensors_shared_and_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    copy = meta_copy(module)
    assert copy[0].weight is copy[1].weight
    assert copy[0].weight.is_meta
    assert not copy[0].bias.requires_grad
    assert not module[0].weight.is_meta


def test_a_module_on_meta_is_built_without_filling_its_tensors() -> None:
    filled: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            filled.append(str(func))
            return func(*args, **(kwargs or {}))

    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            layer.weight.normal_().clamp_(-2, 2).mul_(0.5)
        return layer

    with Watch():
        layer = build_on_meta(build)
    assert layer.weight.is_meta
    assert not any("normal_" in name or "clamp" in name for name in filled)
    assert float(build().weight.detach().abs().max()) > 0


def test_a_constructor_that_makes_modules_without_end_is_stopped() -> None:
    plain = nn.Module.__init__
    with pytest.raises(TooManyModules, match="more than 10 modules"), limited(10):
        nn.Sequential(*(nn.ReLU() for _ in range(11)))
    assert nn.Module.__init__ is plain
    with limited(3):
        nn.Sequential(nn.ReLU(), nn.ReLU())


def test_trunks_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construct, "MAX_MODULES", 20)
    with pytest.raises(CompileError, match="more than 20 modules") as caught:
        load_and_build({"name": "resnet", "depth": 18, "width_multiplier": 0.25})
    assert caught.value.diagnostics[0].code == "GM302"


@pytest.mark.parametrize(
    "trunk",
    [
        {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "depth": 10**9},
        {"name": "timm:convnext_atto", "depths": [1, 10**6, 1, 1]},
        {"name": "torchvision:vit_b_16", "image_size": 32, "num_layers": 100_000},
    ],
)
def test_an_argument_that_asks_for_too_many_layers_is_named(trunk: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="asks for more than 1,000 layers") as caught:
        load_and_build(trunk)
    assert caught.value.diagnostics[0].path == f"trunk.{list(trunk)[-1]}"


def load_and_build(trunk: dict[str, Any]) -> Any:
    return graphmodel.build_graph(graphmodel.load_spec({"inputs": {"images": [3, 32, 32]}, "trunk": trunk}))
