"""Shared passes combined with the other features of a model, each compared with the model without any pass."""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from tests.passes.conftest import calls
from tests.passes.test_batch_inputs import Across, assert_equal, batches, spec, trunk

Models = tuple[Any, Any]


def compared(document: dict[str, Any], passes: Any, **trunks: nn.Module) -> Models:
    """A model with some passes and the same without any."""
    with_passes, without = (
        graphmodel.compile(document, seed=0, passes=p, trunks=copy.deepcopy(trunks) or None) for p in (passes, ())
    )
    assert list(with_passes.state_dict()) == list(without.state_dict())
    without.load_state_dict(with_passes.state_dict())
    return with_passes, without


@cache
def _small() -> Models:
    return compared(spec(), {"batch_inputs": True}, trunk=trunk(nn.GroupNorm(2, 4)))


def small() -> Models:
    """A model of two inputs that share every call."""
    models: Models = copy.deepcopy(_small())
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 1
    return models


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in batches(2, 3)]
    shared, separate = (model.to(dtype)(*inputs) for model in small())
    for name, output in separate.items():
        assert shared[name].dtype == dtype
        torch.testing.assert_close(shared[name], output, rtol=2e-2, atol=2e-2)


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        shared, separate = (model(*batches(2, 3)) for model in small())
    torch.testing.assert_close(dict(shared), dict(separate), rtol=2e-2, atol=2e-2)


def test_a_hook_on_a_stage_sees_the_joined_batch() -> None:
    models = small()
    seen: list[list[int]] = [[], []]
    for model, sizes in zip(models, seen, strict=True):
        model.get_submodule("trunk.s0").register_forward_hook(lambda m, args, out, to=sizes: to.append(len(out)))
        model(*batches(2, 3))
    assert seen == [[5], [2, 3]]


def test_copies_tracing_and_files() -> None:
    shared, separate = small()
    expected = dict(separate(*batches(2, 3)))
    file = io.BytesIO()
    torch.save(shared.state_dict(), file)
    file.seek(0)
    loaded = copy.deepcopy(shared)
    loaded.load_state_dict(torch.load(file))
    made = [copy.deepcopy(shared), pickle.loads(pickle.dumps(shared)), torch.fx.symbolic_trace(shared), loaded]
    for model in made:
        torch.testing.assert_close(dict(model(*batches(2, 3))), expected)


def test_a_slice_to_one_input_reads_that_alone() -> None:
    shared, separate = small()
    part = shared.slice(inputs=["a"])
    torch.testing.assert_close(part(batches(1)[0])["a_flatten"], separate(*batches(1, 3))["a_flatten"])
    assert not [name for name in part.optimized_graph.nodes if name.startswith("batched_")]


def test_a_partly_frozen_trunk_shares_its_frozen_stages() -> None:
    given = trunk(nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    models = compared(spec(freeze=["trunk.conv", "trunk.s0"]), {"batch_inputs": True}, trunk=given)
    graph = models[0].optimized_graph
    assert [len(calls(graph, f"trunk.{name}")) for name in ("conv", "s0", "s1")] == [1, 1, 2]
    assert_equal(models, *batches(2, 3))


def test_random_stages_are_taken_in_the_same_order() -> None:
    models = compared(spec(), {"batch_inputs": True}, trunk=trunk(nn.GroupNorm(2, 4), Across("random")))
    assert [len(calls(models[0].optimized_graph, f"trunk.{name}")) for name in ("s0", "s1")] == [1, 2]
    assert_equal(models, *batches(2, 3))
