from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision

import graphmodel
from graphmodel.components.registry import find_trunk
from graphmodel.components.trunks.resnet_sk import ResNetSKParams, SelectiveKernel
from tests.trunk_helpers import build, disturb, params_of, read, shapes

PAPER = {(50, 1): 35, (50, 2): 140, (101, 1): 65, (101, 2): 257, (152, 1): 89, (152, 2): 354, (152, 3): 795}
"""Millions of parameters with selective kernels, depth and width: SimCLRv2, table 1 (without the classifier)."""


@pytest.mark.parametrize(("depth", "width"), PAPER)
def test_size_is_the_papers(depth: int, width: int) -> None:
    found = shapes("resnet_sk", depth=depth, width_multiplier=width)
    trained = [s for k, s in found.items() if not k.rsplit(".", 1)[1].startswith(("running", "num_batches"))]
    millions = sum(torch.Size(s).numel() for s in trained) / 1e6
    assert millions == pytest.approx(PAPER[depth, width], abs=2.1 * width)


def test_defaults_are_the_largest_of_simclrv2() -> None:
    assert params_of("resnet_sk") == ResNetSKParams(depth=152, width_multiplier=3, sk_ratio=0.0625)


def test_without_selection_it_is_torchvisions_resnet() -> None:
    theirs = disturb(torchvision.models.resnet50()).eval()
    ours = build("resnet_sk", depth=50, width_multiplier=1, sk_ratio=0.0).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        stem, block = key.split(".")[0], key.split(".")[:2]
        leaf = key.split(".", 3)[-1]
        if stem in ("conv1", "bn1"):
            state[f"conv1.{int(stem == 'bn1')}.{key.split('.', 1)[1]}"] = value
        elif "downsample" in key:
            _, place, name = leaf.split(".") if leaf.startswith("downsample") else ("", *key.split(".")[3:])
            state[f"{'.'.join(block)}.downsample.{('conv', 'bn')[int(place)]}.{name}"] = value
        elif stem != "fc":
            part = key.split(".")[2]
            state[f"{'.'.join(block)}.conv{part[-1]}.{int(part.startswith('bn'))}.{leaf}"] = value
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours(x).flatten(1), theirs(x))


def test_selective_kernels_weigh_two_convolutions_per_channel() -> None:
    module = disturb(SelectiveKernel(48, 2, 0.0625)).eval()
    x = torch.randn(3, 48, 9, 9)
    state = module.state_dict()

    def norm(value: torch.Tensor, key: str) -> torch.Tensor:
        return F.batch_norm(
            value, *(state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")), eps=1e-5
        )

    both = F.relu(norm(F.conv2d(x, state["branches.0.weight"], stride=2, padding=1), "branches.1"))
    first, second = both[:, :48], both[:, 48:]
    pooled = (first + second).mean((2, 3), keepdim=True)
    hidden = F.relu(norm(F.conv2d(pooled, state["select.0.weight"]), "select.1"))
    logits = F.conv2d(hidden, state["select.3.weight"])
    share = torch.sigmoid(logits[:, :48] - logits[:, 48:])
    assert hidden.shape[1] == 32  # the smallest inner width
    with torch.no_grad():
        torch.testing.assert_close(module(x), share * first + (1 - share) * second)


@pytest.mark.parametrize("stride", [1, 2])
def test_shortcuts_average_two_by_two_pixels_with_zeros_behind_the_edge(stride: int) -> None:
    model = build("resnet_sk", depth=50, width_multiplier=1)
    shortcut = (model.layer1 if stride == 1 else model.layer2)[0].downsample
    x = torch.rand(1, shortcut.conv.in_channels, 6, 6)
    padded = torch.zeros(1, x.shape[1], 7, 7)
    padded[..., :6, :6] = x
    means = sum(padded[..., i : 6 + i : stride, j : 6 + j : stride] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(shortcut.pool(shortcut.pad(x)), means)


def test_features_form_a_pyramid_and_the_default_is_pooled() -> None:
    x = torch.randn(2, 3, 64, 64)
    maps = read(
        "resnet_sk", ["conv1", "res1", "stage1", "res3", "res4", "res5", "flatten"], x, depth=50, width_multiplier=1
    )
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32),
        (64, 16, 16),
        (256, 16, 16),
        (512, 8, 8),
        (1024, 4, 4),
        (2048, 2, 2),
        (2048,),
    ]
    torch.testing.assert_close(maps[-1], maps[-2].mean((2, 3)))


@pytest.mark.parametrize(
    ("ratio", "theirs", "ours"),
    [
        (0.0625, "net.0.0.weight", "conv1.0.weight"),
        (0.0625, "net.0.3.0.running_var", "conv1.4.running_var"),
        (0.0625, "net.0.4.weight", "conv1.6.weight"),
        (0.0625, "net.1.blocks.0.projection.shortcut.2.weight", "layer1.0.downsample.conv.weight"),
        (0.0625, "net.2.blocks.0.projection.bn.0.bias", "layer2.0.downsample.bn.bias"),
        (0.0625, "net.4.blocks.2.net.1.0.weight", "layer4.2.conv1.1.weight"),
        (0.0625, "net.4.blocks.2.net.2.main_conv.1.0.bias", "layer4.2.conv2.branches.1.bias"),
        (0.0625, "net.4.blocks.2.net.2.mixing_conv.2.weight", "layer4.2.conv2.select.3.weight"),
        (0.0625, "net.4.blocks.2.net.4.0.bias", "layer4.2.conv3.1.bias"),
        (0.0, "net.0.1.0.weight", "conv1.1.weight"),
        (0.0, "net.1.blocks.0.projection.shortcut.weight", "layer1.0.downsample.conv.weight"),
        (0.0, "net.3.blocks.1.net.2.weight", "layer3.1.conv2.0.weight"),
        (0.0, "net.3.blocks.1.net.3.0.weight", "layer3.1.conv2.1.weight"),
        (0.0, "net.3.blocks.1.net.4.weight", "layer3.1.conv3.0.weight"),
        (0.0, "net.3.blocks.1.net.5.0.running_mean", "layer3.1.conv3.1.running_mean"),
    ],
)
def test_vissl_keys_name_the_same_tensors(ratio: float, theirs: str, ours: str) -> None:
    family, params = find_trunk("resnet_sk"), params_of("resnet_sk", sk_ratio=ratio)
    assert family is not None
    assert family.from_vissl_key(theirs, params) == ours
    assert ours in shapes("resnet_sk", depth=50, width_multiplier=1, sk_ratio=ratio)


def test_lab_is_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="takes three channels"):
        read("resnet_sk", ["flatten"], torch.zeros(1, 3, 64, 64), depth=50, input_type="lab")
