"""Weights built one by one are those of an ordinary build; sharded modules can be sliced."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.init import dirac_, orthogonal_, sparse_

import graphmodel
from graphmodel.sharding.recording import CannotRecord, record


def assert_same_build(spec: Any, **given: Any) -> None:
    made = graphmodel.materialise(graphmodel.compile(spec, device="meta", **given), seed=3)
    expected = graphmodel.compile(spec, seed=3, **given)
    tensors = dict([*made.named_parameters(remove_duplicate=False), *made.named_buffers()])
    wanted = dict([*expected.named_parameters(remove_duplicate=False), *expected.named_buffers()])
    assert list(made.state_dict()) == list(expected.state_dict())
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(tensors[name], value), name
        assert tensors[name].requires_grad == value.requires_grad, name


def test_the_numbers_are_those_of_an_ordinary_build(two_inputs: dict[str, Any]) -> None:
    assert_same_build(two_inputs)


def test_copies_start_with_the_numbers_of_their_originals() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunks": {
            "student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
            "teacher": {"copy": "student"},
        },
        "heads": {"project": {"mlp": {"dims": ["auto", 8]}}, "target": {"copy": "project"}},
        "mapping": {"images": {"student.flatten": "project", "teacher.flatten": "target"}},
    }
    assert_same_build(spec)


@pytest.mark.slow
def test_a_copy_for_another_image_size_starts_with_resized_positions() -> None:
    trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 32}
    spec = {
        "inputs": {"images": [3, 32, 32], "large": [3, 64, 64]},
        "trunks": {"student": trunk, "teacher": {"copy": "student", "img_size": 64}},
        "mapping": [{"from": "images.student", "as": "z"}, {"from": "large.teacher", "as": "target"}],
    }
    assert_same_build(spec)


def test_parameters_that_no_constructor_makes_are_refused(small: dict[str, Any]) -> None:
    added, resized, moved = (graphmodel.compile(small, device="meta") for _ in range(3))
    added.trunk.extra = nn.Linear(2, 2, device="meta")
    resized.trunk.conv1 = nn.Conv2d(3, 1, 7, device="meta")
    nn.utils.parametrizations.weight_norm(moved.trunk.conv1)
    names = ("trunk.extra.weight", "trunk.conv1.weight", "trunk.conv1.parametrizations.weight.original0")
    for model, name in zip((added, resized, moved), names, strict=True):
        with pytest.raises(graphmodel.CompileError, match=f"initialise `{name}`") as caught:
            graphmodel.materialise(model)
        assert [d.code for d in caught.value.diagnostics] == ["GM576"]


def test_frozen_parts_stay_frozen(small: dict[str, Any]) -> None:
    assert_same_build({**small, "freeze": ["trunk.layer1"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "size"),
    [
        ("timm:vit_tiny_patch16_224", 224),
        ("torchvision:swin_t", 64),
        ("torchvision:regnet_y_400mf", 64),
        ("timm:levit_128s", 224),
        ({"name": "swin_transformer"}, 224),
        ({"name": "vision_transformer"}, 224),
        ({"name": "convit"}, 224),
        ({"name": "xcit"}, 224),
        ("timm:densenet121", 64),
    ],
)
def test_trunks_of_every_library(trunk: Any, size: int) -> None:
    assert_same_build({"inputs": {"images": [3, size, size]}, "trunk": trunk})


@pytest.mark.parametrize(
    "initialise",
    [
        lambda w: nn.init.orthogonal_(w),  # looked up when called
        lambda w: nn.init.dirac_(w),  # looked up when called
        lambda w: nn.init.trunc_normal_(w),  # looked up when called
        lambda w: nn.init.sparse_(w.flatten(1), 0.5),
        orthogonal_,  # imported by name
        lambda w: orthogonal_(w[:2], gain=2.0),
        lambda w: dirac_(w, groups=2),
        lambda w: sparse_(w.flatten(1), 0.5),
        lambda w: None if w.is_meta else nn.init.zeros_(w),
        lambda w: None if w.device.type == "meta" else nn.init.ones_(w),
        lambda w: w.data.copy_(torch.full(w.shape, 2.0, device=w.device)),
        lambda w: w.data.copy_(w.data.flatten(1).clone().normal_().t_().reshape(w.shape)),
        lambda w: w.data.copy_(torch.randn(w.shape)),
        lambda w: w.data.mul_(2).add_(torch.ones(w.shape)),
        lambda w: w.data[:, 0].zero_(),
        lambda w: w.data.flatten().cumsum(0).view_as(w.data).clamp_(0, 1),
    ],
)
def test_what_constructors_do(initialise: Any) -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)
            self.scale = nn.Parameter(0.5 * torch.ones(6))
            with torch.no_grad():
                initialise(self.conv.weight)
            self.copied = copy.deepcopy(self.conv)
            self.tied = self.conv.weight
            self.last = nn.Linear(3, 2)

    torch.manual_seed(1)
    expected = Made()
    after = torch.rand(3)
    torch.manual_seed(1)
    made, recording = record(Made)
    assert torch.equal(torch.rand(3), after), "the generator is where an ordinary build leaves it"
    assert made.tied is made.conv.weight
    for name, value in expected.named_parameters():
        parameter = made.get_parameter(name)
        assert parameter.is_meta
        assert torch.equal(recording.value(parameter), value), name


def test_a_constructor_that_reads_its_numbers_is_not_recorded() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.largest = self.layer.weight.max().item()

    with pytest.raises(CannotRecord):
        record(Reading)


def test_what_cannot_be_built_is_refused(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    for given in (graphmodel.compile(small), pickle.loads(pickle.dumps(model))):
        with pytest.raises(graphmodel.CompileError, match="GM576"):
            graphmodel.materialise(given)
    with pytest.raises(graphmodel.CompileError, match="GM577"):
        graphmodel.materialise(model, mesh=2)


def test_the_modules_own_seed_is_the_default(small: dict[str, Any]) -> None:
    made = graphmodel.materialise(graphmodel.compile(small, device="meta", seed=5))
    assert torch.equal(made.trunk.conv1.weight, graphmodel.compile(small, seed=5).trunk.conv1.weight)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """A mesh of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_a_sharded_module_and_its_slices(two_inputs: dict[str, Any], mesh: Any) -> None:
    model = graphmodel.materialise(graphmodel.compile(two_inputs, device="meta"), mesh=mesh, seed=0)
    whole = graphmodel.compile(two_inputs, seed=0)
    assert type(model.trunk.layer1).__name__.startswith("FSDP")
    part, expected = model.slice(outputs=["image"]), whole.slice(outputs=["image"])
    images, patches = torch.randn(4, 3, 64, 64), torch.randn(36, 3, 32, 32)
    for _ in range(2):  # the slice first, then the module, then both again
        assert torch.equal(part(images)["image"], expected(images)["image"])
        result, wanted = model(images, patches), whole(images, patches)
        assert all(torch.equal(result[name], value) for name, value in wanted.items())
        part(images)["image"].square().sum().backward()
        expected(images)["image"].square().sum().backward()
    for name, parameter in whole.named_parameters():
        gradient = dict(model.named_parameters())[name].grad
        assert (gradient is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(gradient.full_tensor(), parameter.grad, rtol=1e-4, atol=1e-5)
    part.eval()
    assert model.trunk.layer1.training
    assert torch.equal(part(images)["image"], expected.eval()(images)["image"])


def test_teachers_of_a_sharded_module_follow_their_students(mesh: Any) -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunks": {
            "student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
            "teacher": {"copy": "student"},
        },
        "mapping": [{"from": f"images.{name}.res2", "as": f"of_{name}"} for name in ("student", "teacher")],
    }
    model = graphmodel.materialise(graphmodel.compile(spec, device="meta"), mesh=mesh, seed=0)
    whole = graphmodel.compile(spec, seed=0)
    x = torch.randn(2, 3, 32, 32)
    for each in (model, whole):
        with torch.no_grad():
            for parameter in each.trunks.student.parameters():
                parameter.mul_(3)
            each(x)  # leaves whole parameters in the place of shards
        graphmodel.update_teacher(each, 0.9)
    for name, value in whole.state_dict().items():
        found = model.state_dict()[name]
        assert torch.equal(found.full_tensor() if hasattr(found, "full_tensor") else found, value), name
