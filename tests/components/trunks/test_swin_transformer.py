from __future__ import annotations

from typing import Any

import pytest
import timm.models.swin_transformer as timm_swin
import torch
import torchvision
from torch.nn import functional as F
from torchvision.models.swin_transformer import shifted_window_attention

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read, shapes

TINY: dict[str, Any] = {"image_size": 56, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4]}


def timms(**options: Any) -> timm_swin.SwinTransformer:
    torch.manual_seed(0)
    usual = {"img_size": 56, "patch_size": 2, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 0}
    return timm_swin.SwinTransformer(**{**usual, **options}).eval()


def test_weights_are_what_timm_draws_under_the_seed() -> None:
    assert_same_state(build("swin_transformer", **TINY), timms())


def test_features_are_the_values_inside_timms_model() -> None:
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        last, stages = timms().forward_intermediates(x)
        vector = timms()(x)
    wanted = [*(stage.permute(0, 2, 3, 1) for stage in stages), last, vector, vector]
    found = read("swin_transformer", ["stage1", "stage2", "lastMAP", "pooled", "lastCLS"], x, **TINY)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want)


@pytest.mark.parametrize("index", [0, 1])
def test_maps_that_fill_no_whole_windows_are_padded_and_then_shifted(index: int) -> None:
    block = disturb(build("swin_transformer", **TINY)).eval().layers[0].blocks[index]
    x = torch.randn(2, 10, 13, 12)
    attention = block.attn
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
        bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)[None]
        shift = [3, 3] if index else [0, 0]
        want = shifted_window_attention(
            x, attention.qkv.weight, attention.proj.weight, bias, [7, 7], 2, shift,
            qkv_bias=attention.qkv.bias, proj_bias=attention.proj.bias,
        )  # fmt: skip
        torch.testing.assert_close(block._attn(x), want)


@pytest.mark.parametrize("index", [0, 1])
def test_a_map_smaller_than_the_window_is_one_window_with_the_tables_first_rows(index: int) -> None:
    block = disturb(build("swin_transformer", **TINY)).eval().layers[0].blocks[index]
    x = torch.randn(2, 5, 5, 12)
    attention = block.attn
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
        bias = attention.relative_position_bias_table[attention.relative_position_index[:25, :25]].permute(2, 0, 1)
        q, k, v = attention.qkv(x.reshape(2, 25, 12)).reshape(2, 25, 3, 2, 6).permute(2, 0, 3, 1, 4)
        scores = F.softmax(q @ k.mT / 6**0.5 + bias, -1)
        want = attention.proj((scores @ v).transpose(1, 2).reshape(2, 25, 12)).reshape(2, 5, 5, 12)
        torch.testing.assert_close(block._attn(x), want)


def test_crops_of_several_sizes_go_through_one_trunk() -> None:
    views = [{"count": 2, "shape": [3, 56, 56]}, {"count": 1, "shape": [3, 24, 24]}]
    spec = {"inputs": {"images": {"views": views}}, "trunk": {"name": "swin_transformer", **TINY}}
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    crops = [torch.randn(2, 3, s, s) for s in (56, 56, 24)]
    with torch.no_grad():
        out = model(crops)
        torch.testing.assert_close(out[:4], timms()(torch.cat(crops[:2])))
    torch.testing.assert_close(out[4:], read("swin_transformer", ["pooled"], crops[2], **TINY)[0])


def test_images_that_fill_no_whole_patches_are_padded() -> None:
    x = torch.randn(2, 3, 55, 51)
    padded = F.pad(x, (0, 1, 0, 1))
    found, want = (read("swin_transformer", ["pooled"], v, **TINY)[0] for v in (x, padded))
    torch.testing.assert_close(found, want)


def test_sizes_are_those_of_torchvisions_swin() -> None:
    ours = shapes("swin_transformer", depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], embed_dim=128)
    with torch.device("meta"):
        theirs = torchvision.models.swin_b().state_dict()
    kept = {k: v for k, v in theirs.items() if not k.startswith("head.") and "index" not in k}
    assert sorted(ours.values()) == sorted(tuple(v.shape) for v in kept.values())


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    model = build("swin_transformer", **TINY, drop_path_rate=0.3)
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for stage in model.layers for b in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_vissl_downsamples_at_the_end_of_a_stage_and_timm_at_the_start_of_the_next() -> None:
    family, params = find_trunk("swin_transformer"), params_of("swin_transformer", **TINY)
    assert family is not None
    keys = build("swin_transformer", **TINY).state_dict()
    theirs = [k.replace("layers.1.downsample", "layers.0.downsample") for k in keys]
    assert [family.from_vissl_key(k, params) for k in theirs] == list(keys)
    assert family.from_vissl_key("layers.0.blocks.1.attn.relative_position_index", params) is None
    assert family.from_vissl_key("layers.0.blocks.1.attn_mask", params) is None


def test_the_official_form_keeps_its_masks_in_the_state_dict() -> None:
    model = build("swin_transformer_official", **TINY)
    masks = {k: v for k, v in model.state_dict().items() if k.endswith("attn_mask")}
    assert {k: tuple(v.shape) for k, v in masks.items()} == {
        "layers.0.blocks.1.attn_mask": (16, 49, 49), "layers.1.blocks.1.attn_mask": (4, 49, 49),
    }  # fmt: skip
    family = find_trunk("swin_transformer_official")
    assert family is not None
    assert family.from_vissl_key("layers.0.blocks.1.attn_mask", params_of("swin_transformer", **TINY)) in masks


@pytest.mark.parametrize("params", [{"depths": [2, 2, 2]}, {"num_heads": [5, 4]}, {"window_size": 0}])
def test_what_is_no_swin_transformer_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(graphmodel.CompileError):
        compiled("swin_transformer", ["pooled"], (3, 56, 56), **{**TINY, **params})
