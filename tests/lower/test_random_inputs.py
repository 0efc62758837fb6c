"""Random inputs have the rows, shapes, precision and device that a module takes."""

from __future__ import annotations

import torch

import graphmodel
from graphmodel.lower.random_inputs import random_inputs, weights_of

SPEC = {
    "inputs": {"images": [3, 32, 32], "crops": {"views": [{"count": 2, "shape": [3, 48, 48]}]}},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "mapping": {"images": {"flatten": None}, "crops": {"flatten": None}},
}


def test_a_half_precision_module_runs_on_them() -> None:
    module = graphmodel.compile(SPEC, seed=0).bfloat16().eval()
    rows = {"images": 2, "crops": 3}
    images, crops = random_inputs(module, module.model_graph, rows)
    assert (images.shape, images.dtype) == ((2, 3, 32, 32), torch.bfloat16)
    assert [crop.shape for crop in crops] == [(3, 3, 48, 48)] * 2
    assert all(value.dtype is torch.bfloat16 for value in module(images, crops).values())
    again, _ = random_inputs(module, module.model_graph, rows)
    assert again.equal(images)
    assert not random_inputs(module, module.model_graph, rows, seed=1)[0].equal(images)


def test_a_module_without_weights_takes_them_on_the_cpu() -> None:
    assert weights_of(torch.nn.ReLU()).device.type == "cpu"
