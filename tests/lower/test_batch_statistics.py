"""`batchnorm: train`: a frozen part whose BatchNorm uses the statistics of the batch, as a momentum encoder's does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump

MLP = {"mlp": {"dims": ["auto", 8, 4], "use_bn": True}}


def spec(trunk: Any = None, head: Any = None) -> dict[str, Any]:
    """A student and a teacher on two inputs; the teacher says `batchnorm: train` unless it says something else."""
    return {
        "inputs": {"first": [3, 32, 32], "second": [3, 32, 32]},
        "trunks": {
            "student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
            "teacher": {"copy": "student", **({"batchnorm": "train"} if trunk is None else trunk)},
        },
        "heads": {
            "project": MLP,
            "target": {"copy": "project", **({"batchnorm": "train"} if head is None else head)},
        },
        "mapping": [
            {"from": "first.student.res2", "pool": {"adaptive_avg_pool2d": 1}, "head": "project", "as": "z"},
            {"from": "first.teacher.res2", "pool": {"adaptive_avg_pool2d": 1}, "head": "target", "as": "t1"},
            {"from": "second.teacher.res2", "pool": {"adaptive_avg_pool2d": 1}, "head": "target", "as": "t2"},
        ],
    }


@pytest.fixture(scope="module")
def compiled() -> graphmodel.CompiledModel:
    return graphmodel.compile(spec(), seed=0)


@pytest.fixture
def model(compiled: graphmodel.CompiledModel) -> graphmodel.CompiledModel:
    return copy.deepcopy(compiled)


def norms(model: nn.Module) -> list[nn.Module]:
    found = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [m for m in found if not next(m.parameters()).requires_grad]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)


def test_a_teacher_computes_what_modules_in_train_mode_compute(model: graphmodel.CompiledModel) -> None:
    """Each input has a pass of its own, since BatchNorm mixes the samples of a batch."""
    by_hand, head = copy.deepcopy(model.trunks.student), copy.deepcopy(model.heads.project)
    images = batch()
    out = model(*images)
    for name, each in zip(("t1", "t2"), images, strict=True):
        x = by_hand.maxpool(by_hand.relu(by_hand.bn1(by_hand.conv1(each))))
        torch.testing.assert_close(out[name], head(by_hand.layer1(x).mean((2, 3))))
        assert not out[name].requires_grad
    for teacher, twin in ((model.trunks.teacher, by_hand), (model.heads.target, head)):
        torch.testing.assert_close(teacher.state_dict(), twin.state_dict())
    assert model.trunks.teacher.bn1.num_batches_tracked == 2
    model.eval()
    by_hand.eval()
    head.eval()
    x = by_hand.maxpool(by_hand.relu(by_hand.bn1(by_hand.conv1(images[0]))))
    torch.testing.assert_close(model(*images)["t1"], head(by_hand.layer1(x).mean((2, 3))))
    assert model.trunks.teacher.bn1.num_batches_tracked == 2


def test_batchnorm_follows_the_mode_and_nothing_else_does(model: graphmodel.CompiledModel) -> None:
    parts = [
        model,
        pickle.loads(pickle.dumps(model)),
        model.slice(outputs=["t1"]),
        nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
    ]
    for part in parts:
        assert len(norms(part)) == 6
        for mode in (True, False, True):
            part.train(mode)
            assert all(norm.training is mode for norm in norms(part))
            assert not part.trunks.teacher.training
            assert not part.trunks.teacher.layer1[0].conv1.training
        teachers = [*part.trunks.teacher.parameters(), *part.heads.target.parameters()]
        assert not any(parameter.requires_grad for parameter in teachers)
    trained = {id(p) for group in graphmodel.param_groups(model, lr=0.1) for p in group["params"]}
    assert trained == {id(p) for part in (model.trunks.student, model.heads.project) for p in part.parameters()}


def test_an_update_leaves_the_statistics_of_the_teacher(model: graphmodel.CompiledModel) -> None:
    model(*batch())
    kept = [norm.running_mean.clone() for norm in norms(model)]
    with torch.no_grad():
        for tensor in (*model.trunks.student.parameters(), model.trunks.student.bn1.running_mean):
            tensor.fill_(3)
    graphmodel.update_teacher(model, 0.0)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms(model), kept, strict=True))
    assert all(bool((parameter == 3).all()) for parameter in model.trunks.teacher.parameters())


def test_a_pattern_freezes_a_norm_of_the_teacher_too() -> None:
    model = graphmodel.compile({**spec(), "freeze": ["trunks.teacher.bn1"]}, device="meta")
    assert not model.trunks.teacher.bn1.training
    assert model.trunks.teacher.layer1[0].bn1.training


def test_what_depends_on_the_batch_is_not_fixed(compiled: graphmodel.CompiledModel) -> None:
    """Stored features end before the first BatchNorm; the passes that need fixed statistics pass over the teacher."""
    first, _ = graphmodel.split_frozen(compiled)
    assert [name for name, _ in first.named_parameters()] == ["trunks.teacher.conv1.weight"]
    folded = graphmodel.compile(spec(), passes=["fold_batchnorm", "batch_inputs"], device="meta")
    assert not any(node.facts.folded for node in folded.optimized_graph.nodes.values())
    facts = [n.facts for n in compiled.model_graph.nodes.values() if n.target == "trunks.teacher.layer1"]
    assert [(f.frozen, f.batch_statistics) for f in facts] == [(True, True)] * 2


def test_the_written_spec_says_so(compiled: graphmodel.CompiledModel) -> None:
    again = graphmodel.compile(dump(resolved_spec(compiled.model_graph)), seed=0)
    assert again.model_graph.spec.trunks["teacher"].batchnorm == "train"
    assert again.model_graph.spec.heads["target"].batchnorm == "train"
    plain = graphmodel.compile(spec(trunk={}), device="meta")
    assert [c.text for c in graphmodel.diff(plain, compiled).changes] == [
        "trunk `teacher`: batchnorm eval became train"
    ]


@pytest.mark.parametrize(
    ("trunk", "head", "code", "message", "help"),
    [
        ({"batchnorm": "train", "freeze": False}, None, "GM202", "is not frozen", "leave `batchnorm` out"),
        (None, {"batchnorm": "train", "freeze": False}, "GM202", "is not frozen", "leave `batchnorm` out"),
        ({"batchnorm": "trian"}, None, "GM202", "`trian` is not a valid value", "did you mean `train`"),
        ({"batchnrom": "train"}, None, "GM201", "unknown key `batchnrom`", "did you mean `batchnorm`"),
    ],
)
def test_mistakes_are_reported_at_their_place(trunk: Any, head: Any, code: str, message: str, help: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec(trunk, head))
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert message in found.message
    assert help in found.help
    assert (found.path or "").startswith("trunks.teacher" if head is None else "heads.target")


def test_a_part_without_batchnorm_is_reported() -> None:
    wrong = spec()
    wrong["heads"]["project"] = {"mlp": {"dims": ["auto", 4]}}
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(wrong, device="meta")
    (found,) = caught.value.diagnostics
    assert (found.code, found.path) == ("GM211", "heads.target.batchnorm")
    assert found.message == "`batchnorm: train` covers nothing: the head `target` has no BatchNorm layer"
