"""What tests of trunk families share: building one, reading features through the compiler, comparing weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphmodel
from graphmodel.build.describe import FeatureDescription, describe
from graphmodel.components.construct import build_on_meta
from graphmodel.components.registry import find_trunk


def params_of(name: str, **params: Any) -> Any:
    """Validated parameters of a family."""
    family = find_trunk(name)
    assert family is not None
    return family.Params(**params)


def build(name: str, input_type: str = "rgb", seed: int = 0, **params: Any) -> nn.Module:
    """The family's trunk under a seed."""
    family = find_trunk(name)
    assert family is not None
    torch.manual_seed(seed)
    return family.build(family.Params(**params), input_type)


def shapes(name: str, **params: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trunk's tensors, without building weights."""
    family = find_trunk(name)
    assert family is not None
    model = build_on_meta(lambda: family.build(family.Params(**params), "rgb"))
    return {key: tuple(t.shape) for key, t in model.state_dict().items()}


def compiled(name: str, features: list[str], shape: tuple[int, ...], **params: Any) -> nn.Module:
    """The trunk compiled for these features of one input, weights of seed 0."""
    spec = {
        "inputs": {"images": {"shape": list(shape)}},
        "trunk": {"name": name, **params},
        "mapping": [{"from": f"images.{f}", "as": f"out_{i}"} for i, f in enumerate(features)],
    }
    return graphmodel.compile(spec, seed=0, returns="tuple")


def read(name: str, features: list[str], x: torch.Tensor, **params: Any) -> list[torch.Tensor]:
    """Values of features in eval mode, weights of seed 0."""
    with torch.no_grad():
        return list(compiled(name, features, tuple(x.shape[1:]), **params).eval()(x))


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    """Same names, same values, bit for bit."""
    left, right = ours.state_dict(), theirs.state_dict()
    assert list(left) == list(right)
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def disturb(module: nn.Module) -> nn.Module:
    """Random statistics and scales, so that no layer is the identity by accident."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point() and value.dim() == 1:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return module


def describe_trunk(name: str, shape: tuple[int, ...] | None = None) -> list[FeatureDescription]:
    """The features of a trunk by name, on images of that shape or of the library's own."""
    family = find_trunk(name)
    assert family is not None
    params = family.Params.model_validate({})
    module = build_on_meta(lambda: family.pretrained(params, "rgb", False))
    own = (getattr(module, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    return describe(module, family.features(params, module), shape or own)
