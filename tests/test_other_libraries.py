"""Compiled modules and what others do with modules: copy, pickle, average, quantize, print, draw and rewrite them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 64, 64]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"label": {"mlp": {"dims": ["auto", 16, 5], "use_bn": True, "use_relu": True}}},
}
X = torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def module() -> graphmodel.CompiledModel:
    return graphmodel.compile(SPEC, seed=0).eval()


def label(module: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(X)["label"]
    return result


def test_loading_weights_only_says_what_to_do(module: graphmodel.CompiledModel, tmp_path: Path) -> None:
    torch.save(module, tmp_path / "module.pt")
    for options in ({"weights_only": True}, {}):
        with pytest.raises(graphmodel.CompileError, match="the file is a pickled module") as caught:
            torch.load(tmp_path / "module.pt", **options)
        [found] = caught.value.diagnostics
        assert found.code == "GM524"
        assert "graphmodel.save" in found.help
        assert "weights_only=False" in found.help
    assert torch.equal(label(torch.load(tmp_path / "module.pt", weights_only=False)), label(module))


def test_state_dicts_load_as_weights_only(module: graphmodel.CompiledModel, tmp_path: Path) -> None:
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = graphmodel.compile(SPEC, seed=1).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(label(other), label(module))


def test_modules_for_inference_are_pickled_as_what_they_are(module: graphmodel.CompiledModel) -> None:
    fast = graphmodel.optimize_for_inference(module)
    again = pickle.loads(pickle.dumps(fast))
    assert isinstance(again, graphmodel.InferenceModel)
    assert torch.equal(label(again), label(fast))


def forward_in_child(module: Any, x: torch.Tensor, queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put({name: value.detach().tolist() for name, value in module(x).items()})


@pytest.mark.slow
def test_a_spawned_process_gets_the_module(module: graphmodel.CompiledModel) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=forward_in_child, args=(module, X, queue))
    child.start()
    found = queue.get(timeout=240)
    child.join()
    assert child.exitcode == 0
    torch.testing.assert_close(torch.tensor(found["label"]), label(module), rtol=1e-5, atol=1e-6)


def test_an_averaged_model_averages_parameters() -> None:
    from torch.optim.swa_utils import AveragedModel, update_bn

    model = graphmodel.compile({**SPEC, "freeze": ["trunk.conv1", "trunk.bn1"]}, seed=0)
    averaged = AveragedModel(model)
    weights = [model.heads.label.clf[0].weight.detach().clone() for _ in range(1)]
    averaged.update_parameters(model)
    with torch.no_grad():
        model.heads.label.clf[0].weight.mul_(3)
    weights.append(model.heads.label.clf[0].weight.detach().clone())
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged.module.heads.label.clf[0].weight, torch.stack(weights).mean(0))
    with torch.no_grad():
        averaged.module.trunk.bn1.running_mean.fill_(0.5)
    update_bn([X], averaged)
    assert torch.equal(averaged.module.trunk.bn1.running_mean, torch.full((16,), 0.5)), "frozen, so it is not reset"
    assert not torch.equal(averaged.module.trunk.layer1[0].bn1.running_mean, torch.zeros(16))
    averaged.train()
    assert not averaged.module.trunk.bn1.training
    assert averaged.module.model_graph is model.model_graph
    assert list(averaged.module.state_dict()) == list(model.state_dict())


def test_int8_weights_of_torchao(module: graphmodel.CompiledModel) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantized = copy.deepcopy(module)
    quantize_(quantized, Int8WeightOnlyConfig())
    assert "Int8" in type(quantized.heads.label.clf[0].weight).__name__
    found, expected = label(quantized), label(module)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


def test_torchinfo_counts_the_parameters(module: graphmodel.CompiledModel) -> None:
    import torchinfo

    found = torchinfo.summary(module, input_data=[X], verbose=0)
    assert found.total_params == sum(p.numel() for p in module.parameters())
    assert "BasicBlock" in str(found)


def test_torchview_draws_the_module(module: graphmodel.CompiledModel) -> None:
    from torchview import draw_graph

    source = draw_graph(module, input_data=[X], device="cpu").visual_graph.source
    assert source.count(">Conv2d") == sum(isinstance(m, torch.nn.Conv2d) for m in module.modules())
    assert source.count(">Linear") == 2


@pytest.mark.parametrize("spec", [SPEC, {**SPEC, "trunk": "torchvision:resnet18"}], ids=["resnet", "torchvision"])
def test_another_tracer_and_the_fusion_of_torch_understand_the_module(spec: Any) -> None:
    from torch.fx.experimental.optimization import fuse

    model = graphmodel.compile(spec, seed=0).eval()
    traced = fx.symbolic_trace(model)
    assert torch.equal(label(traced), label(model))
    fused = fuse(model)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(label(fused), label(model), rtol=1e-3, atol=1e-4)
