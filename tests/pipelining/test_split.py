"""Pipeline stages, run one after the other, are the whole: results, gradients and statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import graphmodel


def assert_same(spec: Any, stages: int, *inputs: torch.Tensor) -> graphmodel.PipelineSplit:
    """Trains one step with the stages of a module and with a copy of it."""
    model = graphmodel.compile(spec, seed=0)
    whole = copy.deepcopy(model)
    split = graphmodel.split_pipeline(model, stages)
    values: Any = inputs
    for stage in split.modules:
        values = stage(*values)
    result, expected = split.named(values), whole(*inputs)
    assert list(result) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-5, atol=1e-5)
    for results in (result, expected):
        sum(value.square().mean() for value in results.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
    buffers = dict(model.named_buffers())
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-5, atol=1e-6)
    return split


def test_a_chain_is_cut_in_the_middle_of_its_work(small: dict[str, Any]) -> None:
    split = assert_same(small, 2, torch.randn(4, 3, 64, 64))
    assert max(split.flops) < 0.65 * sum(split.flops)
    names = [set(stage.state_dict()) for stage in split.modules]
    assert names[0].isdisjoint(names[1])


def test_early_outputs_travel_through_later_stages(small: dict[str, Any]) -> None:
    heads = {"early": {"mlp": {"dims": ["auto", 4]}}, "late": {"mlp": {"dims": ["auto", 4]}}}
    mapping = {"images": {"res2": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["early"]}, "flatten": "late"}}
    split = assert_same({**small, "heads": heads, "mapping": mapping}, 3, torch.randn(4, 3, 64, 64))
    assert split.outputs == ("early", "late")


def test_inputs_through_one_trunk_pass_each_stage_together(two_inputs: dict[str, Any]) -> None:
    split = assert_same(two_inputs, 2, torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32))
    names = [set(stage.state_dict()) for stage in split.modules]
    assert names[0].isdisjoint(names[1])


def test_a_transformer_is_cut_between_its_blocks() -> None:
    trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 4}
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": trunk, "heads": {"label": {"mlp": {"dims": ["auto", 4]}}}}
    split = assert_same(spec, 2, torch.randn(2, 3, 32, 32))
    assert max(split.flops) < 0.65 * sum(split.flops)
    model = graphmodel.compile(spec, seed=0)
    calls: list[int] = []
    model.trunk.blocks.register_forward_hook(lambda *_: calls.append(1))
    first, second = graphmodel.split_pipeline(model, 2).modules
    second(*first(torch.randn(2, 3, 32, 32)))
    assert calls == [1], "blocks with a hook stay together"


def test_bad_numbers_of_stages(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    for stages, code in ((0, "GM578"), ("2", "GM578"), (True, "GM578"), (100, "GM579")):
        with pytest.raises(graphmodel.CompileError, match=code):
            graphmodel.split_pipeline(model, stages)
    with pytest.raises(graphmodel.CompileError, match="GM578"):
        graphmodel.split_pipeline(model).stage(2)
    with pytest.raises(graphmodel.CompileError, match="GM575"):
        graphmodel.split_pipeline(torch.nn.Linear(2, 2))
