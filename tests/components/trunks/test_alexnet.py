from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import build, compiled, disturb, params_of, read

FEATURES = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]


def lrn(x: torch.Tensor) -> torch.Tensor:
    """Local response normalisation over five channels, written out."""
    squares = torch.zeros_like(x)
    for c in range(x.shape[1]):
        squares[:, c] = x[:, max(0, c - 2) : c + 3].square().sum(1)
    out: torch.Tensor = x / (1 + 1e-4 / 5 * squares) ** 0.75
    return out


def pool(x: torch.Tensor) -> torch.Tensor:
    return torch.max_pool2d(x, 3, 2)


def by_hand(
    model: nn.Module, x: torch.Tensor, stride: int, padding: int, groups: int, response: str = ""
) -> list[torch.Tensor]:
    """The five convolutions and three pooling layers of the papers, with the model's own weights and norms."""
    out = []
    for number in range(1, 6):
        first, *norm = [m for m in getattr(model, f"conv{number}") if not isinstance(m, nn.ReLU)]
        x = torch.conv2d(
            x,
            first.weight,
            first.bias,
            stride if number == 1 else 1,
            padding if number == 1 else first.kernel_size[0] // 2,
            groups=groups if number in (2, 4, 5) else 1,
        )
        for layer in norm:
            x = layer(x)
        x = x.clamp(min=0)
        out.append(x)
        if number in (1, 2):
            x = pool(lrn(x)) if response == "before" else lrn(pool(x)) if response == "after" else pool(x)
            out.append(x)
    out.append(pool(x))
    return out


@pytest.mark.parametrize(
    ("name", "stride", "padding", "groups", "response", "norms"),
    [
        ("alexnet_bvlc", 4, 0, 2, "before", 0),
        ("alexnet_jigsaw", 2, 0, 2, "after", 3),
        ("alexnet_colorization", 4, 0, 2, "", 5),
        ("alexnet_rotnet", 4, 2, 1, "", 5),
        ("alexnet_deepcluster", 4, 2, 1, "", 5),
    ],
)
def test_layers_compute_what_the_papers_say(
    name: str, stride: int, padding: int, groups: int, response: str, norms: int
) -> None:
    lab = name == "alexnet_colorization"
    model = disturb(build(name, "lab" if lab else "rgb")).eval()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == norms
    x = torch.randn(2, 1 if lab else 3, 127, 127)
    with torch.no_grad():
        inner = model.sobel(x) if name == "alexnet_deepcluster" else x
        wanted = by_hand(model, inner, stride, padding, groups, response)
        torch.testing.assert_close(model(x.clone()), wanted[-1])


def test_features_are_in_the_order_of_the_layers() -> None:
    x = torch.randn(2, 3, 127, 127)
    values = read("alexnet_jigsaw", [*FEATURES, "flatten"], x)
    with torch.no_grad():
        wanted = by_hand(build("alexnet_jigsaw").eval(), x, 2, 0, 2, "after")
    for value, want in zip(values, [*wanted, wanted[-1]], strict=True):
        torch.testing.assert_close(value, want)


def test_rotnet_is_torchvisions_alexnet_with_batch_norm() -> None:
    ours, theirs = disturb(build("alexnet_rotnet")).eval(), torchvision.models.AlexNet()
    x = out = torch.randn(2, 3, 127, 127)
    convolutions = [m for m in theirs.features if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for number, layer in enumerate(convolutions, 1):
            layer.load_state_dict(getattr(ours, f"conv{number}")[0].state_dict())
        for layer in theirs.features:
            out = layer(out)
            if isinstance(layer, nn.Conv2d):
                out = getattr(ours, f"conv{convolutions.index(layer) + 1}")[1](out)
        torch.testing.assert_close(ours(x), out)


def test_sobel_finds_vertical_edges_and_does_not_train() -> None:
    model = compiled("alexnet_deepcluster", ["sobel"], (3, 64, 64))
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    (edges,) = model(ramp)
    assert edges[0, 0, 1:-1, 1:-1].allclose(torch.tensor(-8.0), atol=1e-4)
    assert edges[0, 1, 1:-1, 1:-1].allclose(torch.tensor(0.0), atol=1e-4)
    (transposed,) = model(ramp.mT)
    assert transposed[0, 1, 1:-1, 1:-1].allclose(torch.tensor(-8.0), atol=1e-4)
    assert not any(p.requires_grad for p in model.parameters())


def test_colorization_reads_the_luminance_alone() -> None:
    x = torch.randn(2, 3, 127, 127)
    (seen,) = read("alexnet_colorization", ["conv5"], x, input_type="lab")
    x[:, 1:] = 0
    (same,) = read("alexnet_colorization", ["conv5"], x, input_type="lab")
    torch.testing.assert_close(seen, same)


@pytest.mark.parametrize(
    ("name", "input_type", "message"),
    [
        ("alexnet_colorization", "rgb", "write `input_type: lab`"),
        ("alexnet_bvlc", "lab", "takes three channels"),
    ],
)
def test_channels_that_do_not_fit_are_refused(name: str, input_type: str, message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        read(name, ["flatten"], torch.zeros(1, 3, 127, 127), input_type=input_type)
    assert message in str(caught.value)


def test_vissl_keys_name_layers_by_number() -> None:
    family, params = find_trunk("alexnet_deepcluster"), params_of("alexnet_deepcluster")
    assert family is not None
    names = {"sobel.1.bias": "sobel.1.bias"}
    numbers = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}
    names |= {
        f"_feature_blocks.{n}.{leaf}": f"{k}.{leaf}" for k, n in numbers.items() for leaf in ("0.bias", "1.weight")
    }
    ours = build("alexnet_deepcluster").state_dict()
    for theirs, name in names.items():
        assert family.from_vissl_key(theirs, params) == name
        assert name in ours
