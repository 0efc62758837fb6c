"""`FreezeUntil` does what VISSL's hook does: no gradient, and so no step, before its number of steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

import graphmodel

SWAV = {"swav_head": {"dims": ["auto", 16], "use_bn": False, "num_clusters": [5]}}
SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"swav": SWAV},
}
VISSL = {
    "config": {
        "MODEL": {
            "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
            "HEAD": {"PARAMS": [["swav_head", {"dims": [512, 16], "use_bn": False, "num_clusters": [5]}]]},
            "TEMP_FROZEN_PARAMS_ITER_MAP": [["module.heads.0.prototypes0.weight", 2]],
        }
    }
}


def train(model: Any, frozen: Any, steps: int = 4) -> list[torch.Tensor]:
    """The prototypes before each step and after the last, with momentum and weight decay."""
    optimizer = torch.optim.SGD(graphmodel.param_groups(model, lr=0.1, weight_decay=0.1), momentum=0.9)
    weight = next(p for name, p in model.named_parameters() if "prototypes0" in name)
    found = [weight.detach().clone()]
    for step in range(steps):
        sum(t.pow(2).sum() for t in model(torch.randn(4, 3, 32, 32)).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
        frozen(step)
        optimizer.step()
        optimizer.zero_grad()
        found.append(weight.detach().clone())
    return found


def moved(values: list[torch.Tensor]) -> list[bool]:
    return [not torch.equal(a, b) for a, b in pairwise(values)]


def test_parameters_train_from_their_step_on() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    assert moved(train(model, graphmodel.FreezeUntil(model, {"heads.swav.prototypes0": 2}))) == [
        False,
        False,
        True,
        True,
    ]


def test_the_map_of_a_vissl_file_is_read() -> None:
    model = graphmodel.compile(VISSL, seed=0, inputs={"images": (3, 32, 32)})
    frozen = graphmodel.FreezeUntil(model)
    assert list(frozen.steps.values()) == [2]
    assert moved(train(model, frozen)) == [False, False, True, True]


def test_patterns_cover_several_parameters_and_the_latest_step_counts() -> None:
    model = graphmodel.compile(SPEC, device="meta")
    steps = graphmodel.FreezeUntil(torch.nn.Sequential(model), {"trunk.layer*": 3, "trunk.layer1.0.conv1": 5}).steps
    assert steps["trunk.layer1.0.conv1.weight"] == 5
    assert {step for name, step in steps.items() if name != "trunk.layer1.0.conv1.weight"} == {3}
    assert steps.keys() == {name for name, _ in model.named_parameters() if name.startswith("trunk.layer")}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"heads.swavs": 2}, "covers no parameter"),
        ({"heads.swav": 2.5}, "not 2.5"),
        (None, "does not come from a VISSL file"),
    ],
)
def test_wrong_arguments_are_one_diagnostic(steps: Any, message: str) -> None:
    model = graphmodel.compile(SPEC, device="meta")
    with pytest.raises(graphmodel.CompileError, match=message) as caught:
        graphmodel.FreezeUntil(model, steps)
    assert [d.code for d in caught.value.diagnostics] == ["GM593"]
