"""Numbers of compiled models against modules written by hand, in training and evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from tests.reference import PIRL_NAMES, Pirl, Trunk, copy_weights


@pytest.mark.parametrize("training", [True, False])
def test_two_inputs_equal_the_hand_written_module(two_inputs: dict[str, Any], training: bool) -> None:
    ours, theirs = graphmodel.compile(two_inputs, seed=0).train(training), Pirl().train(training)
    copy_weights(theirs, ours, PIRL_NAMES)
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    got, want = ours(images, patches), theirs(images, patches)
    assert torch.equal(got["image"], want[0])
    assert torch.equal(got["jigsaw"], want[1])
    running = {k.replace("trunk.model.", "trunk."): v for k, v in theirs.named_buffers()}
    assert all(torch.equal(v, running[k]) for k, v in ours.named_buffers())


def test_gradients_equal_the_hand_written_modules(two_inputs: dict[str, Any]) -> None:
    ours, theirs = graphmodel.compile(two_inputs, seed=0), Pirl()
    copy_weights(theirs, ours, PIRL_NAMES)
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    (ours(images, patches)["image"].sum() + ours(images, patches)["jigsaw"].sum()).backward()
    got, want = theirs(images, patches), theirs(images, patches)
    (got[0].sum() + want[1].sum()).backward()
    grads = {n: p.grad for n, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        prefix = next(p for p in PIRL_NAMES if name.startswith(p))
        grad = grads[PIRL_NAMES[prefix] + name.removeprefix(prefix)]
        assert parameter.grad is not None
        assert grad is not None
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-6)


def features(views: list[torch.Tensor], passes: list[list[int]], trunk: Trunk) -> dict[str, torch.Tensor]:
    """Features of all views, one trunk pass per group of indices, in the order of the views."""
    found: dict[str, dict[int, torch.Tensor]] = {"flatten": {}, "res4": {}}
    for group in passes:
        out = trunk(torch.cat([views[i] for i in group]))
        out["res4"] = nn.functional.adaptive_avg_pool2d(out["res4"], 2)
        for name, pieces in found.items():
            pieces.update(zip(group, out[name].split([views[i].shape[0] for i in group]), strict=True))
    return {name: torch.cat([pieces[i] for i in range(len(views))]) for name, pieces in found.items()}


@pytest.mark.parametrize(
    ("sizes", "how", "passes"),
    [
        ([64, 64, 32, 32, 32], "resolution", [[0, 1], [2, 3, 4]]),
        ([64, 32, 64, 32], "resolution", [[0, 2], [1, 3]]),
        ([64, 32, 64, 32], "consecutive", [[0], [1], [2], [3]]),
        ([64, 64, 32], "consecutive", [[0, 1], [2]]),
        ([64, 64, 32], "crop", [[0], [1], [2]]),
        ([64, 64], "resolution", [[0, 1]]),
        ([64], "resolution", [[0]]),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_views_share_trunk_passes_as_asked(sizes: list[int], how: str, passes: list[list[int]], training: bool) -> None:
    views = [{"shape": [3, s, s]} for s in sizes]
    spec = {
        "inputs": {"crops": {"views": views, "grouping": how}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "mapping": {"crops": {"flatten": None, "res4": {"pool": {"adaptive_avg_pool2d": 2}}}},
    }
    ours, theirs = graphmodel.compile(spec, seed=0).train(training), Trunk().train(training)
    copy_weights(theirs, ours, {"model.": "trunk."})
    batches = [torch.randn(2 + i % 2, 3, s, s) for i, s in enumerate(sizes)]
    got = ours(batches)
    want = features(batches, passes, theirs)
    assert torch.equal(got["flatten"], want["flatten"])
    assert torch.equal(got["res4"], want["res4"])


def test_a_feature_of_another_size_at_each_resolution_is_refused() -> None:
    views = [{"shape": [3, 64, 64]}, {"shape": [3, 32, 32]}]
    spec = {
        "inputs": {"crops": {"views": views}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "mapping": {"crops": {"res4": None}},
    }
    with pytest.raises(graphmodel.CompileError, match="several shapes") as caught:
        graphmodel.compile(spec)
    assert caught.value.diagnostics[0].code == "GM306"


def test_views_of_one_width_and_other_heights_are_two_resolutions() -> None:
    spec = {
        "inputs": {"crops": {"views": [{"shape": [3, 64, 32]}, {"shape": [3, 32, 32]}]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    }
    out = graphmodel.compile(spec, seed=0)([torch.randn(2, 3, 64, 32), torch.randn(2, 3, 32, 32)])
    assert out["features"].shape == (4, 128)


def test_features_of_several_layers_with_pooling_equal_torchs() -> None:
    spec = {
        "inputs": {"images": {"shape": [3, 64, 64]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
        "mapping": {
            "images": {
                "conv1": {"pool": {"avg_pool2d": {"kernel_size": [10, 10], "stride": 10, "padding": 4}}},
                "res4": {"pool": {"adaptive_max_pool2d": 2}, "flatten": True},
                "layer2.0.bn1": None,
                "bn1": None,
            }
        },
    }
    ours, theirs = graphmodel.compile(spec, seed=0), Trunk().eval()
    copy_weights(ours, theirs, {"trunk.": "model."})
    x = torch.randn(2, 3, 64, 64)
    got, want = ours(x), theirs(x)
    m = theirs.model
    assert torch.equal(got["conv1"], nn.AvgPool2d((10, 10), 10, 4)(want["conv1"]))
    assert torch.equal(got["res4"], nn.AdaptiveMaxPool2d(2)(want["res4"]).flatten(1))
    # bn1 is followed by a ReLU in place: the feature is what BatchNorm gave, not what the ReLU left of it.
    assert torch.equal(got["bn1"], m.bn1(m.conv1(x)))
    assert (got["bn1"] < 0).any()
    inner = m.layer2[0]
    assert torch.equal(got["layer2_0_bn1"], inner.bn1(inner.conv1(want["res2"])))


@pytest.mark.parametrize(("kind", "channels"), [("bgr", [2, 1, 0]), ("lab", [0])])
def test_the_input_type_reorders_channels(kind: str, channels: list[int]) -> None:
    spec = {
        "inputs": {"images": {"shape": [3, 32, 32]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "input_type": kind},
        "mapping": {"images": {"conv1": None}},
    }
    ours = graphmodel.compile(spec, seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    trunk = ours.trunk
    assert torch.equal(ours(x)["conv1"], torch.relu(trunk.bn1(trunk.conv1(x[:, channels]))))


def test_a_head_over_several_inputs_and_features_combines_them() -> None:
    spec = {
        "inputs": {"a": {"shape": [3, 32, 32]}, "b": {"shape": [3, 32, 32]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"joint": {"mlp": {"dims": ["auto", 4]}}},
        "mapping": [
            {"from": ["a.flatten", "b.flatten"], "head": "joint"},
            {"from": ["a.flatten", "b.flatten"], "combine": "sum", "as": "total"},
            {"from": ["a.flatten", "b.flatten"], "combine": "stack", "as": "pair"},
        ],
    }
    ours = graphmodel.compile(spec, seed=0).eval()
    a, b = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    got = ours(a, b)
    theirs = Trunk().eval()
    copy_weights(ours.slice(outputs=["total"]), theirs, {"trunk.": "model."})
    fa, fb = theirs(a)["flatten"], theirs(b)["flatten"]
    assert torch.equal(got["total"], fa + fb)
    assert torch.equal(got["pair"], torch.stack([fa, fb], 1))
    assert torch.equal(got["joint"], ours.heads.joint(torch.cat([fa, fb], 1)))
