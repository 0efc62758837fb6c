"""Frozen parts stand still whatever is done to the module around them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError
from graphmodel.lower.module import CompiledModel

X = torch.randn(4, 3, 64, 64)


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for b in module.buffers()]


def trainable(module: nn.Module) -> set[str]:
    return {n for n, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "treat",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.slice(outputs=["head"]),
        lambda m: nn.Sequential(m)[0],
    ],
    ids=["itself", "deepcopy", "pickle", "slice", "in a container"],
)
def test_a_frozen_trunk_stays_in_eval_mode(
    small: dict[str, Any], treat: Callable[[CompiledModel], CompiledModel]
) -> None:
    model = treat(graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0))
    model.train()
    model.trunk.layer1.train(True)
    before = statistics(model.trunk)
    model(X)["head"].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model.trunk), strict=True))
    assert not any(m.training for name, m in model.trunk.named_modules() if name)
    assert model.heads.head.training
    assert trainable(model) == {"heads.head.clf.0.weight", "heads.head.clf.0.bias"}
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_train_still_returns_the_module(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0)
    assert model.trunk.bn1.train() is model.trunk.bn1
    assert model.eval().train() is model


def test_dropout_inside_a_frozen_head_is_off(small: dict[str, Any]) -> None:
    heads = {"head": {"mlp": {"dims": ["auto", 64, 10], "use_dropout": True}}}
    model = graphmodel.compile({**small, "heads": heads, "freeze": ["all"]}, seed=0).train()
    assert torch.equal(model(X)["head"], model(X)["head"])
    assert trainable(model) == set()


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (["trunk.layer1"], {"trunk.layer1"}),
        (["trunk.layer1.*"], {"trunk.layer1"}),
        (["trunk.conv1", "trunk.bn1"], {"trunk.conv1", "trunk.bn1"}),
        (["trunk.layer[12]"], {"trunk.layer1", "trunk.layer2"}),
        (["heads"], {"heads"}),
        ("trunk.layer4.1", {"trunk.layer4.1"}),
    ],
)
def test_names_and_patterns_freeze_exactly_what_they_cover(
    small: dict[str, Any], freeze: Any, frozen: set[str]
) -> None:
    model = graphmodel.compile({**small, "freeze": freeze}, seed=0).train()
    model(X)["head"].sum().backward()
    for name, parameter in model.named_parameters():
        covered = any(name.startswith(f"{f}.") for f in frozen)
        assert parameter.requires_grad is not covered, name
        assert (parameter.grad is None) is covered, name
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training is not any(name == f or name.startswith(f"{f}.") for f in frozen), name


def test_a_pattern_over_parameters_leaves_other_parameters_of_the_module_alone(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["*.bias"]}, seed=0).train()
    assert not any(n.endswith("bias") for n in trainable(model))
    assert model.trunk.bn1.training
    assert model.trunk.bn1.weight.requires_grad


def test_a_norm_whose_parameters_are_all_frozen_keeps_its_statistics(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk.bn1.weight", "trunk.bn1.bias"]}, seed=0).train()
    assert not model.trunk.bn1.training
    assert model.trunk.layer1[0].bn1.training


def test_a_pattern_that_covers_nothing_is_an_error(small: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match=r"did you mean `trunk\.layer1`") as caught:
        graphmodel.compile({**small, "freeze": ["trunk.layr1"]})
    assert caught.value.diagnostics[0].code == "GM211"


def test_vissls_parameter_names_freeze_what_they_name() -> None:
    block = {
        "MODEL": {
            "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
            "HEAD": {"PARAMS": [["mlp", {"dims": [512, 3]}]]},
            "NON_TRAINABLE_PARAMS": ["trunk._feature_blocks.conv1.weight", "module.heads.0.clf.0.bias"],
        }
    }
    model = graphmodel.compile(block, seed=0)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"trunk.conv1.weight", "heads.head.clf.0.bias"}


def test_frozen_calls_are_marked_in_the_graph(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**small, "freeze": ["trunk"]}))
    frozen = {n.name for n in graph.nodes.values() if n.facts.frozen}
    assert "layer1" in frozen
    assert "head" not in frozen
