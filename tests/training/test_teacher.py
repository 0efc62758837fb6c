"""`update_teacher` does what timm's moving average of a copy does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.utils import ModelEmaV3

import graphmodel

TRUNK = {"name": "resnet", "depth": 18, "width_multiplier": 0.25}
MLP = {"mlp": {"dims": ["auto", 8, 4], "use_bn": True}}
SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunks": {"student": TRUNK, "teacher": {**TRUNK, "freeze": True}},
    "heads": {"project": MLP, "target": MLP},
    "mapping": {"images": {"student.flatten": "project", "teacher.flatten": "target"}},
    "freeze": ["heads.target"],
}
PAIRS = {"teacher": "student", "target": "project"}


def test_a_teacher_is_the_moving_average_of_timm() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    graphmodel.update_teacher(model, 0, pairs=PAIRS)
    student = model.trunks.student.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in model.trunks.teacher.state_dict().items())
    averages = {
        "trunks.teacher": (model.trunks.student, ModelEmaV3(model.trunks.student, decay=0.9, exclude_buffers=False)),
        "heads.target": (model.heads.project, ModelEmaV3(model.heads.project, decay=0.9, exclude_buffers=False)),
    }
    optimizer = torch.optim.SGD(graphmodel.param_groups(model, lr=0.1))
    for _ in range(3):
        out = model(torch.randn(8, 3, 32, 32))
        (out["project"] - out["target"]).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        graphmodel.update_teacher(model, 0.9, pairs=PAIRS)
        for student, average in averages.values():
            average.update(student)
    for path, (student, average) in averages.items():
        state = model.get_submodule(path).state_dict()
        torch.testing.assert_close(state, average.module.state_dict(), rtol=1e-5, atol=1e-7)
        moved = [name for name, value in state.items() if not torch.equal(value, student.state_dict()[name])]
        assert any("running_mean" in name for name in moved)
        assert any("weight" in name for name in moved)


def copying(**teacher: Any) -> dict[str, Any]:
    return {
        "inputs": {"images": [3, 32, 32]},
        "trunks": {"student": TRUNK, "teacher": {"copy": "student", **teacher}},
        "heads": {"project": MLP, "target": {"copy": "project"}},
        "mapping": {"images": {"student.flatten": "project", "teacher.flatten": "target"}},
    }


def test_frozen_copies_in_the_spec_follow_their_originals_without_pairs() -> None:
    model = graphmodel.compile(copying(), seed=0)
    parts = [(model.trunks.teacher, model.trunks.student), (model.heads.target, model.heads.project)]
    averages = [copy.deepcopy(teacher.state_dict()) for teacher, _ in parts]
    optimizer = torch.optim.SGD(graphmodel.param_groups(model, lr=0.1))
    for _ in range(2):
        out = model(torch.randn(8, 3, 32, 32))
        (out["project"] - out["target"] - 1).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        graphmodel.update_teacher(model, 0.9)
        for average, (_, student) in zip(averages, parts, strict=True):
            for name, value in student.state_dict().items():
                average[name] = 0.9 * average[name] + 0.1 * value if value.is_floating_point() else value.clone()
    for average, (teacher, student) in zip(averages, parts, strict=True):
        torch.testing.assert_close(teacher.state_dict(), average, rtol=1e-5, atol=1e-6)
        weights = [name for name, p in student.named_parameters() if p.dim() > 1]
        assert all(not torch.equal(average[name], student.state_dict()[name]) for name in weights)


def test_a_copy_that_trains_is_not_a_teacher() -> None:
    model = graphmodel.compile(copying(freeze=False), seed=0)
    with torch.no_grad():
        for parameter in [*model.trunks.student.parameters(), *model.heads.project.parameters()]:
            parameter.zero_()
    before = copy.deepcopy(model.trunks.teacher.state_dict())
    graphmodel.update_teacher(model, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.trunks.teacher.state_dict().items())
    assert not any(parameter.abs().sum() for parameter in model.heads.project.parameters())
    assert any(parameter.abs().sum() for parameter in model.heads.target.parameters())


def test_a_copy_with_fewer_stages_follows_those_that_it_has() -> None:
    spec = copying()
    spec["heads"] = {"project": MLP}
    spec["mapping"] = {"images": {"student.flatten": "project", "teacher.res3": None}}
    model = graphmodel.compile(spec, seed=0)
    with torch.no_grad():
        model.trunks.student.layer2[0].conv1.weight.zero_()
    graphmodel.update_teacher(model, 0)
    assert not hasattr(model.trunks.teacher, "layer4")
    assert not model.trunks.teacher.layer2[0].conv1.weight.any()


@pytest.mark.parametrize(("part", "message"), [("shape", "differ in `conv1.weight`"), ("freeze", "requires a grad")])
def test_a_copy_that_was_changed_is_refused(part: str, message: str) -> None:
    model = graphmodel.compile(copying(), device="meta")
    if part == "shape":
        model.trunks.student.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False, device="meta")
    else:
        model.trunks.teacher.conv1.weight.requires_grad_()
    with pytest.raises(graphmodel.CompileError, match=message) as caught:
        graphmodel.update_teacher(model, 0.9)
    assert [d.code for d in caught.value.diagnostics] == ["GM592"]


def test_the_teacher_computes_with_its_new_weights() -> None:
    """Frozen parts may run with BatchNorm folded into their weights; nothing of that is cached."""
    model = graphmodel.compile(SPEC, seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    model(images)
    graphmodel.update_teacher(model, 0.5, pairs=PAIRS)
    alone = graphmodel.compile({**SPEC, "optimize": False}, seed=1).eval()
    alone.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images), alone(images), rtol=1e-4, atol=1e-5)
    graphmodel.update_teacher(model, 0, pairs=PAIRS)
    out = model(images)
    torch.testing.assert_close(out["target"], out["project"], rtol=1e-4, atol=1e-5)


def test_a_wrapped_model_is_found_and_other_dtypes_are_converted() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    model.trunks.teacher.double()
    before = copy.deepcopy(model.trunks.teacher.state_dict())
    graphmodel.update_teacher(torch.nn.Sequential(model), 0.5, pairs={"trunks.teacher": "trunks.student"})
    for name, value in model.trunks.teacher.state_dict().items():
        if value.is_floating_point():
            student = model.trunks.student.state_dict()[name].double()
            torch.testing.assert_close(value, (before[name] + student) / 2)


@pytest.mark.parametrize(
    ("momentum", "pairs", "message"),
    [
        (1.5, PAIRS, "between 0 and 1"),
        (0.9, {"techer": "student"}, "did you mean `teacher`"),
        (0.9, {"teacher": "project"}, "differ in `"),
        (0.9, {"student": "teacher"}, "requires a gradient"),
        (0.9, None, "has no teacher"),
    ],
)
def test_wrong_arguments_are_one_diagnostic(momentum: float, pairs: Any, message: str) -> None:
    model = graphmodel.compile(SPEC, device="meta")
    with pytest.raises(graphmodel.CompileError, match=message) as caught:
        graphmodel.update_teacher(model, momentum, pairs=pairs)
    assert [d.code for d in caught.value.diagnostics] == ["GM592"]


@pytest.mark.parametrize("size", [96, [32, 128]])
def test_a_teacher_for_another_image_size_follows_resized_position_embeddings(size: Any) -> None:
    trunks = {"student": {"name": "timm:test_vit", "img_size": 64}, "teacher": {"copy": "student", "img_size": size}}
    shape = [3, size, size] if isinstance(size, int) else [3, *size]
    spec = {"inputs": {"small": [3, 64, 64], "large": shape}, "trunks": trunks}
    model = graphmodel.compile({**spec, "mapping": {"small": {"student": None}, "large": {"teacher": None}}}, seed=0)
    student, teacher = model.trunks.student, model.trunks.teacher
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    graphmodel.update_teacher(model, 0.9)
    grid = [side // 16 for side in shape[1:]]
    goal = dict(student.state_dict())
    goal["pos_embed"] = resample_abs_pos_embed(goal["pos_embed"], grid, num_prefix_tokens=1, antialias=False)
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * goal[name])
