"""`deconv` is the head of Simple Baselines."""

from __future__ import annotations

import torch
from torch import nn

import graphmodel
from tests.head_helpers import assert_same, built


class Pose(nn.Module):
    """The layers after the ResNet in Microsoft's `PoseResNet`."""

    def __init__(self, width: int, channels: list[int], joints: int, kernel: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for planes in channels:
            layers.append(nn.ConvTranspose2d(width, planes, 4, stride=2, padding=1, output_padding=0, bias=False))
            layers += [nn.BatchNorm2d(planes, momentum=0.1), nn.ReLU(inplace=True)]
            width = planes
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(width, joints, kernel, padding=1 if kernel == 3 else 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_layer(self.deconv_layers(x))


def test_it_is_the_head_of_simple_baselines() -> None:
    for kernel in (1, 3):
        head = built("deconv", in_channels=8, num_joints=5, channels=[6, 4], final_kernel=kernel)
        reference = Pose(8, [6, 4], 5, kernel)
        assert list(head.state_dict()) == list(reference.state_dict())
        assert_same(head, reference, (2, 8, 3, 4))


def test_the_published_head_has_its_sizes_and_initial_weights() -> None:
    head = {"deconv": {"num_joints": 17}}
    spec = {"inputs": {"images": [3, 64, 32]}, "trunk": {"name": "resnet", "depth": 18}, "heads": {"pose": head}}
    model = graphmodel.compile({**spec, "mapping": {"images": {"res5": "pose"}}}, device="meta")
    shapes = [tuple(p.shape) for p in model.heads.pose.parameters() if p.ndim == 4]
    assert shapes == [(512, 256, 4, 4), (256, 256, 4, 4), (256, 256, 4, 4), (17, 256, 1, 1)]
    assert model(torch.zeros(1, 3, 64, 32, device="meta"))["pose"].shape == (1, 17, 16, 8)
    small = built("deconv", in_channels=8, num_joints=17, channels=[32])
    assert 0.0009 < small.deconv_layers[0].weight.std().item() < 0.0011
    assert small.final_layer.bias.abs().max() == 0
