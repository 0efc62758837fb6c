from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.tracing.shape_only import ShapeOnlyOps


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_norms_keep_shape_dtype_and_strides(training: bool, channels_last: bool) -> None:
    x = torch.empty(2, 8, 4, 4, device="meta", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for norm in (nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)):
        norm = norm.to("meta", torch.bfloat16).train(training)
        with ShapeOnlyOps():
            out = norm(x)
        assert (out.shape, out.dtype, out.stride(), out.device) == (x.shape, x.dtype, x.stride(), x.device)


def test_wrong_channels_fail_as_they_do_for_real() -> None:
    norm = nn.BatchNorm2d(4).to("meta").eval()
    with ShapeOnlyOps(), pytest.raises(RuntimeError, match=r"4|8"):
        norm(torch.empty(2, 8, 4, 4, device="meta"))


def test_real_tensors_are_really_normalised() -> None:
    norm, x = nn.BatchNorm2d(3).train(), torch.randn(4, 3, 5, 5)
    with ShapeOnlyOps():
        out = norm(x)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}, {"batch_first": True}]
)
def test_lstms_keep_their_shapes(options: dict[str, int]) -> None:
    lstm = nn.LSTM(8, 5, **options)
    x = torch.randn(2, 6, 8)
    output, state = lstm(x)
    with ShapeOnlyOps():
        found, (hidden, cell) = lstm.to("meta")(x.to("meta"))
    assert (found.shape, hidden.shape, cell.shape) == (output.shape, state[0].shape, state[1].shape)


def test_an_lstm_of_another_width_fails_as_it_does_for_real() -> None:
    with ShapeOnlyOps(), pytest.raises(RuntimeError, match=r"size|shape|dim"):
        nn.LSTM(8, 5).to("meta")(torch.empty(2, 6, 7, device="meta"))


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 8), (8,)])
@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)])
def test_layer_norms_and_linear_layers_keep_their_shapes(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = copy.deepcopy(layer)
    expected = layer(torch.randn(shape))
    with ShapeOnlyOps():
        out = layer.to("meta")(torch.empty(shape, device="meta"))
    assert (out.shape, out.dtype, out.stride()) == (expected.shape, expected.dtype, expected.stride())
    assert out.is_meta


@pytest.mark.parametrize("shapes", [((2, 6, 1, 1), (2, 6, 5, 4)), ((1, 7, 3), (2, 7, 3)), ((1, 4), (4, 1))])
@pytest.mark.parametrize("function", [torch.mul, torch.add])
def test_a_tensor_repeated_along_dimensions_keeps_the_shape_of_the_other(
    shapes: tuple[tuple[int, ...], ...], function: Callable[..., torch.Tensor]
) -> None:
    pair = [torch.randn(shape) for shape in shapes]
    for x, y in (pair, pair[::-1]):
        expected = function(x, y)
        with ShapeOnlyOps():
            out = function(x.to("meta"), y.to("meta"))
        assert (out.shape, out.dtype, out.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (6, 5, 4)])
@pytest.mark.parametrize("size", [1, (1, 1), (1, None), 3])
def test_average_pooling_keeps_its_shape(shape: tuple[int, ...], size: int | tuple[int, int]) -> None:
    pool, x = nn.AdaptiveAvgPool2d(size), torch.randn(shape)
    expected = pool(x)
    with ShapeOnlyOps():
        out = pool(x.to("meta"))
    assert (out.shape, out.dtype, out.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.mark.parametrize("make", [lambda: nn.LayerNorm(4), lambda: nn.Linear(4, 3)])
def test_wrong_widths_fail_as_they_do_for_real(make: Callable[[], nn.Module]) -> None:
    with ShapeOnlyOps(), pytest.raises(RuntimeError):
        make().to("meta")(torch.empty(2, 8, device="meta"))


class Cumulative(nn.Module):
    """BatchNorm that averages over all batches, as a closed module and inside one."""

    def __init__(self, in_features: int = 3) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(in_features, 4, 3), nn.BatchNorm2d(4, momentum=None))
        self.norm = nn.BatchNorm2d(4, momentum=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.stage(x)).mean((2, 3))
        return out


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_keeps_its_shape(width: int, causal: bool) -> None:
    query, key = torch.empty(2, 3, 7, 8), torch.empty(2, 3, 9, 8)
    given = [tensor.to("meta", torch.bfloat16) for tensor in (query, key, torch.empty(2, 3, 9, width))]
    plain = nn.functional.scaled_dot_product_attention(*given, is_causal=causal)
    with ShapeOnlyOps():
        out = nn.functional.scaled_dot_product_attention(*given, is_causal=causal)
    assert (out.shape, out.dtype, out.device) == (plain.shape, plain.dtype, plain.device)


def test_attention_of_other_widths_fails_as_it_does_for_real() -> None:
    query, key = torch.empty(2, 3, 7, 8, device="meta"), torch.empty(2, 3, 9, 6, device="meta")
    with ShapeOnlyOps(), pytest.raises(RuntimeError):
        nn.functional.scaled_dot_product_attention(query, key, key)


def test_a_cumulative_average_compiles_and_moves_as_in_the_module_itself() -> None:
    spec = {"inputs": {"x": [3, 8, 8]}, "trunk": "cumulative", "heads": {"h": "identity"}, "checkpoint": 2}
    model = graphmodel.compile(spec, trunks={"trunk": Cumulative()})
    reference = Cumulative()
    reference.load_state_dict(model.trunk.state_dict())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [None, None]
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8)
        model.train()(x)["h"].sum().backward()
        reference(x)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.trunk.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1), groups=2), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, 3, padding="same", bias=False), (2, 4, 9, 8)),
        (nn.Conv3d(4, 6, 2, stride=2), (2, 4, 4, 6, 8)),
        (nn.Conv2d(4, 6, 3), (4, 9, 8)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_convolutions_keep_their_shapes(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = copy.deepcopy(layer).to("meta", dtype)
    x = torch.empty(shape, device="meta", dtype=dtype)
    plain = layer(x)
    with ShapeOnlyOps():
        out = layer(x)
    assert (out.shape, out.dtype, out.stride(), out.device) == (plain.shape, plain.dtype, plain.stride(), plain.device)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 4, 1, 1), (4, 9)])
def test_convolutions_of_other_shapes_fail_as_they_do_for_real(shape: tuple[int, ...]) -> None:
    with ShapeOnlyOps(), pytest.raises(RuntimeError):
        nn.Conv2d(4, 6, 3).to("meta")(torch.empty(shape, device="meta"))


def test_a_sum_in_place_is_the_tensor_itself_changed() -> None:
    x, y = torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")
    before = x._version
    with ShapeOnlyOps():
        out = x
        out += y
        assert out is x
        assert out.add_(y) is x
    assert x._version == before + 2
    with ShapeOnlyOps(), pytest.raises(RuntimeError):
        x.add_(torch.empty(4, 3, device="meta"))
