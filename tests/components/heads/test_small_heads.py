"""`linear`, `conv1x1`, `cosine` and `prototypes` compute what modules written by hand compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import assert_same, built


def test_linear_is_torchs_layer_for_vectors_and_tokens() -> None:
    head = built("linear", in_features=8, out_features=3, bias=False)
    assert_same(head, nn.Linear(8, 3, bias=False), (4, 8))
    assert_same(head, nn.Linear(8, 3, bias=False), (4, 5, 8))


def test_linear_is_the_probe_of_mae() -> None:
    head = built("linear", in_features=64, out_features=32, batch_norm=True, init_std=0.01)
    assert head.get_parameter("1.weight").std().item() == pytest.approx(0.01, rel=0.2)
    assert head.get_parameter("1.bias").abs().max() == 0
    assert_same(head, nn.Sequential(nn.BatchNorm1d(64, affine=False, eps=1e-6), nn.Linear(64, 32)), (6, 64))


def test_conv1x1_is_torchs_convolution() -> None:
    assert_same(built("conv1x1", in_channels=8, out_channels=3), nn.Conv2d(8, 3, 1), (2, 8, 5, 4))


class Cosine(nn.Module):
    def __init__(self, learn: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 8))
        self.scale = nn.Parameter(torch.zeros(1), requires_grad=learn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norms = x.norm(dim=-1)[..., None] * self.weight.norm(dim=-1)
        return self.scale * (x @ self.weight.T) / norms


@pytest.mark.parametrize("shape", [(4, 8), (2, 5, 8)])
@pytest.mark.parametrize("learn", [True, False])
def test_cosine_is_a_scaled_cosine(shape: tuple[int, ...], learn: bool) -> None:
    head = built("cosine", in_features=8, num_classes=3, scale=7.0, learn_scale=learn)
    assert head.scale.item() == 7
    reference = Cosine(learn)
    if not learn:
        reference.scale.requires_grad_(False)
        scale = reference.scale.data
        del reference.scale
        reference.register_buffer("scale", scale)
    assert_same(head, reference, shape)


class Swav(nn.Module):
    """The last step of SwAV's `forward_head` with its `MultiPrototypes`."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.prototypes = nn.ModuleList(nn.Linear(8, count, bias=False) for count in counts)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = nn.functional.normalize(x, dim=1, p=2)
        return [layer(x) for layer in self.prototypes]


class Dino(nn.Module):
    """The end of DINO's head; its old-style `weight_norm` cannot be built anew without a warning."""

    def __init__(self, learn: bool) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(5, 1), requires_grad=learn)
        self.v = nn.Parameter(torch.ones(5, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x / x.norm(dim=-1, keepdim=True)
        return x @ (self.g * self.v / self.v.norm(dim=1, keepdim=True)).T


def test_prototypes_are_those_of_swav() -> None:
    assert_same(built("prototypes", in_features=8, num_prototypes=[5, 7]), Swav([5, 7]), (4, 8))
    one = built("prototypes", in_features=8, num_prototypes=5)
    assert_same(one, Swav([5]), (4, 8))
    assert isinstance(one(torch.randn(2, 8)), torch.Tensor)


@pytest.mark.parametrize("learn", [True, False])
def test_prototypes_with_weight_norm_are_those_of_dino(learn: bool) -> None:
    kind = "learned" if learn else "fixed"
    head = built("prototypes", in_features=8, num_prototypes=5, weight_norm=kind)
    assert [p.requires_grad for p in head.parameters()] == [learn, True]
    assert_same(head, Dino(learn), (4, 8))


def test_a_preset_and_prototypes_are_the_head_of_dino() -> None:
    whole = built("dino_head", in_dim=8, num_clusters=[5], hidden_dim=6, bottleneck_dim=4)
    mlp = built("mlp", preset="dino", dims=[8, 6, 6, 4])
    last = built("prototypes", in_features=4, num_prototypes=5, weight_norm="fixed")
    assert_same(whole, nn.Sequential(mlp, last), (4, 8))


SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {
        "class": {"linear": {"out_features": 3}},
        "cosine": {"cosine": {"num_classes": 4}},
        "swav": {"prototypes": {"num_prototypes": [5, 7]}},
        "dense": {"conv1x1": {"out_channels": 6}},
    },
}
SPEC["heads"]["label"] = SPEC["heads"].pop("class")
SPEC["mapping"] = [
    {"from": "images.flatten", "head": "label"},
    {"from": "images.flatten", "head": "cosine"},
    {"from": "images.flatten", "normalize": True, "head": "swav"},
    {"from": "images.res5", "head": "dense"},
]


def test_widths_come_from_the_features() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    outputs = model(torch.randn(2, 3, 32, 32))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "label": (2, 3),
        "cosine": (2, 4),
        "swav.prototypes0": (2, 5),
        "swav.prototypes1": (2, 7),
        "dense": (2, 6, 1, 1),
    }
    keys = [key for key in model.state_dict() if key.startswith("heads.")]
    assert keys == [
        "heads.label.weight",
        "heads.label.bias",
        "heads.cosine.weight",
        "heads.cosine.scale",
        "heads.swav.prototypes0.weight",
        "heads.swav.prototypes1.weight",
        "heads.dense.weight",
        "heads.dense.bias",
    ]


@pytest.mark.parametrize(
    ("feature", "head", "text"),
    [
        ("res5", {"linear": {"out_features": 3}}, "wants vectors or tokens"),
        ("flatten", {"conv1x1": {"out_channels": 3}}, "wants a feature map"),
        ("flatten", {"cosine": {"num_classes": 3, "in_features": 9}}, "wants 9 features"),
        ("flatten", {"segmentation": {"num_classes": 3}}, "wants a feature map"),
    ],
)
def test_a_feature_that_a_head_cannot_read_is_refused(feature: str, head: dict[str, Any], text: str) -> None:
    spec = {**SPEC, "heads": {"h": head}, "mapping": {"images": {feature: "h"}}}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    assert [d.code for d in caught.value.diagnostics] == ["GM304"]
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("head", "path", "message"),
    [
        ({"prototypes": {"num_prototypes": [3, "a"]}}, "num_prototypes[1]", "takes a whole number, not 'a'"),
        ({"prototypes": {"num_prototypes": []}}, "num_prototypes", "needs at least 1 entry"),
        ({"prototypes": {"num_prototypes": 3, "weight_norm": "fix"}}, "weight_norm", "not a valid value"),
        ({"cosine": {"num_classes": 3, "scale": float("inf")}}, "scale", "should be a finite number, not inf"),
        ({"cosine": {"num_classes": 0}}, "num_classes", "should be greater than 0, not 0"),
        ({"deconv": {"num_joints": 3, "channels": [4, 0]}}, "channels[1]", "should be greater than 0, not 0"),
        ({"deconv": {"num_joints": 3, "final_kernel": 2}}, "final_kernel", "`2` is not a valid value"),
    ],
)
def test_a_parameter_that_is_not_valid_is_one_diagnostic(head: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile({"inputs": {"x": [13]}, "heads": {"h": head}}, device="meta")
    [found] = caught.value.diagnostics
    assert found.path == f"heads.h.{next(iter(head))}.{path}"
    assert message in found.message
