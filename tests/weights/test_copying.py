"""Everything is checked before the first tensor is copied, and doubtful values are reported."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel import CompileError
from tests.reference import NarrowResNet

ONE = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
LAST = "layer4.1.conv2.weight"
KINDS = ["sparse", "sparse rows", "quantised", "nested", "jagged", "meta", "bool", "int8", "complex"]


def state(**changes: Any) -> dict[str, torch.Tensor]:
    """A good checkpoint whose last convolution is changed: everything before it would be copied already."""
    found = {k: v.clone() for k, v in NarrowResNet().state_dict().items()}
    return {**found, **changes}


def unusable(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
    return {
        "sparse": tensor.to_sparse(),
        "sparse rows": tensor.reshape(128, -1).to_sparse_csr(),
        "quantised": scale,
        "nested": torch.nested.nested_tensor([tensor, tensor]),
        "jagged": torch.nested.nested_tensor([tensor[0, 0], tensor[0, 0]], layout=torch.jagged),
        "meta": tensor.to("meta"),
        "bool": tensor > 0,
        "int8": tensor.to(torch.int8),
        "complex": tensor.to(torch.complex64),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partial", [False, True])
def test_a_refused_load_changes_nothing(kind: str, partial: bool) -> None:
    model = graphmodel.compile(ONE, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bad = unusable(torch.randn(128, 128, 3, 3))[kind]
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, state(**{LAST: bad}), partial=partial)
    (found,) = caught.value.diagnostics
    assert found.code == "GM515"
    assert f"`{LAST}`" in found.message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", ["sparse", "quantised", "meta", "bool", "complex"])
def test_so_does_one_from_a_file(kind: str, tmp_path: Any) -> None:
    model = graphmodel.compile(ONE, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(state(**{LAST: unusable(torch.randn(128, 128, 3, 3))[kind]}), tmp_path / "x.pth")
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, tmp_path / "x.pth")
    assert [d.code for d in caught.value.diagnostics] == ["GM515"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_many_are_cut() -> None:
    model = graphmodel.compile(ONE, seed=0)
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, {k: v.to(torch.complex64) for k, v in state().items()})
    assert 2 < len(caught.value.diagnostics) < 12


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_reported(value: float) -> None:
    bad = state()
    bad[LAST][3, 2, 1, 0] = value
    model = graphmodel.compile(ONE, seed=0)
    with pytest.warns(UserWarning, match="not finite"):
        report = graphmodel.load_weights(model, bad)
    (warning,) = report.warnings
    assert (warning.code, warning.severity) == ("GM517", "warning")
    assert LAST in warning.message
    found = model.trunk.layer4[1].conv2.weight
    torch.testing.assert_close(found, bad[LAST], rtol=0, atol=0, equal_nan=True, check_stride=False)


def test_numbers_too_large_for_the_models_dtype_are_reported() -> None:
    model = graphmodel.compile(ONE, seed=0).half()
    bad = state()
    bad["conv1.weight"][0, 0, 0, 0] = 1e6
    with pytest.warns(UserWarning, match=r"not finite: `conv1\.weight`"):
        graphmodel.load_weights(model, bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_dtypes_are_converted(dtype: torch.dtype) -> None:
    model = graphmodel.compile(ONE, seed=0)
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    report = graphmodel.load_weights(model, half)
    assert report.warnings == []
    assert model.trunk.conv1.weight.dtype == torch.float32
    assert torch.equal(model.trunk.conv1.weight, half["conv1.weight"].float())


def test_unusable_tensors_that_the_model_does_not_need_do_not_matter() -> None:
    model = graphmodel.compile(ONE, seed=0)
    report = graphmodel.load_weights(
        model, state(**{"fc.weight": torch.eye(4).to_sparse(), "other": torch.ones(2).bool()})
    )
    assert report.unexpected == ["other"]
    assert sorted(report.pruned) == ["fc.bias", "fc.weight"]


def test_a_load_on_meta_reports_and_copies_nothing() -> None:
    model = graphmodel.compile(ONE, device="meta")
    assert len(graphmodel.load_weights(model, state()).matched) == 120
    assert model.trunk.conv1.weight.is_meta


def deep_state() -> dict[str, torch.Tensor]:

    return NarrowResNet((3, 4, 6, 3)).state_dict()


@pytest.mark.parametrize("layout", ["library", "vissl", "sequential"])
def test_weights_of_a_deeper_network_are_refused(layout: str) -> None:
    deep = deep_state()
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    form = {
        "library": lambda k: f"module.{k}",
        "vissl": lambda k: f"trunk._feature_blocks.{k}",
        "sequential": lambda k: f"{children.index(k.partition('.')[0])}.{k.partition('.')[2]}",
    }[layout]
    content = {form(k): v for k, v in deep.items() if not k.startswith("fc.")}
    model = graphmodel.compile(ONE, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, content)
    shallow = NarrowResNet().state_dict()
    lost = [k for k, v in deep.items() if k not in shallow and v.is_floating_point()]
    (finding,) = caught.value.diagnostics
    assert (finding.code, f" {len(lost)} of its tensors" in finding.message) == ("GM512", True)
    assert form("layer1.2.conv1.weight") in finding.message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = graphmodel.load_weights(model, content, partial=True)
    assert sorted(report.deeper) == sorted(map(form, lost))
    assert torch.equal(model.trunk.layer4[1].conv2.weight, deep[LAST])


def test_of_two_networks_a_deeper_one_is_not_taken() -> None:
    student = NarrowResNet()
    model = graphmodel.compile(ONE, seed=0)
    report = graphmodel.load_weights(model, {"teacher": deep_state(), "student": student.state_dict()})
    assert report.warnings == []
    assert torch.equal(model.trunk.conv1.weight, student.conv1.weight)


def test_stages_that_are_pruned_do_not_make_a_checkpoint_deeper() -> None:
    model = graphmodel.compile({**ONE, "mapping": {"images": {"res2": None}}}, seed=0)
    assert graphmodel.load_weights(model, state()).deeper == []


def test_tables_of_relative_positions_of_another_grid_are_named() -> None:
    trunk = {"name": "timm:swin_tiny_patch4_window7_224", "depths": [1, 1], "num_heads": [1, 2], "embed_dim": 8}

    def made(window: int) -> Any:
        here = {**trunk, "img_size": 8 * window, "window_size": window}
        return graphmodel.compile({"inputs": {"images": [3, 8 * window, 8 * window]}, "trunk": here}, seed=0)

    with pytest.raises(CompileError, match="tables of relative positions are not resized") as caught:
        graphmodel.load_weights(made(2), made(4).state_dict(), interpolate=True)
    assert caught.value.diagnostics[0].code == "GM512"


def test_weights_of_another_variant_are_reported() -> None:
    model = graphmodel.compile(ONE, seed=0)
    with pytest.warns(UserWarning, match="layers or parts that the trunk does not have"):
        report = graphmodel.load_weights(model, state(**{"layer1.0.scale.gamma": torch.ones(64)}))
    (warning,) = report.warnings
    assert (warning.code, "`layer1.0.scale.gamma`" in warning.message) == ("GM517", True)


def test_heads_of_the_checkpoint_and_computed_buffers_are_no_such_layers() -> None:
    model = graphmodel.compile(ONE, seed=0)
    extra = {
        "fc.0.weight": torch.zeros(4, 4),
        "head.mlp.0.weight": torch.zeros(4, 4),
        "layer1.0.relative_position_index": torch.zeros(4, dtype=torch.long),
        "layer1.0.attn_mask": torch.zeros(4, 4),
    }
    report = graphmodel.load_weights(model, state(**extra))
    assert report.warnings == []
    assert sorted(report.unexpected) == sorted(extra)


def test_negative_variances_are_reported() -> None:
    bad = state()
    bad["bn1.running_var"][3] = -0.5
    with pytest.warns(UserWarning, match="1 variances have negative values: `bn1.running_var`"):
        report = graphmodel.load_weights(graphmodel.compile(ONE, seed=0), bad)
    assert any("negative" in warning.message for warning in report.warnings)
