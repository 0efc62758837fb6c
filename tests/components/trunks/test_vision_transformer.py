from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm.models.vision_transformer as timm_vit
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel.components.registry import find_trunk
from graphmodel.components.trunks.vision_transformer import PatchDropping, PatchMasking
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read, shapes

TINY: dict[str, Any] = {
    "image_size": 64, "patch_size": 16, "num_layers": 4, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96,
    "qkv_bias": True,
}  # fmt: skip
VIT = "vision_transformer"


def timms(**options: Any) -> timm_vit.VisionTransformer:
    torch.manual_seed(0)
    usual = {
        "img_size": 64,
        "patch_size": 16,
        "depth": 4,
        "num_heads": 3,
        "embed_dim": 48,
        "mlp_ratio": 2,
        "num_classes": 0,
    }
    return timm_vit.VisionTransformer(**{**usual, **options}).eval()


def test_weights_are_what_timm_draws_under_the_seed() -> None:
    assert_same_state(build(VIT, **TINY), timms())


def test_a_trunk_without_class_token_is_timms_too() -> None:
    ours = build(VIT, **TINY, use_class_token=False)
    assert_same_state(ours, timms(class_token=False, global_pool="avg", fc_norm=False))


def test_features_are_the_values_inside_timms_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = timms()
    with torch.no_grad():
        last, blocks = reference.forward_intermediates(x, norm=True, output_fmt="NLC", return_prefix_tokens=True)
    tokens = [torch.cat([prefix, patches], 1) for patches, prefix in blocks]
    torch.testing.assert_close(tokens[-1], last)
    wanted = {
        "blkCLS1": tokens[1][:, 0],
        "concatCLS2": torch.cat([tokens[2][:, 0], tokens[3][:, 0]], 1),
        "concatCLS0": torch.cat([t[:, 0] for t in tokens], 1),
        "concatCLS9": torch.cat([t[:, 0] for t in tokens], 1),
        "lastCLS": last[:, 0],
        "lastBLK": last,
        "lastMAP": last[:, 1:].reshape(2, 4, 4, 48),
        "lastPOOL": last[:, 1:].mean(1),
        "concatBLK3": torch.cat(tokens[1:], 2),
        "concatPOOL2": torch.cat([t[:, 1:].mean(1) for t in tokens[2:]], 1),
    }
    for value, want in zip(read(VIT, list(wanted), x, **TINY), wanted.values(), strict=True):
        torch.testing.assert_close(value, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"),
    [("stridePOOL_2", [3, 1]), ("stridePOOL_3", [3, 1]), ("stridePOOL_1", [3]), ("stridePOOL_3_1", [3, 2, 1])],
)
def test_strided_features_go_back_from_the_last_block(name: str, blocks: list[int]) -> None:
    x = torch.randn(2, 3, 64, 64)
    params = {**TINY, "use_class_token": False}
    alone = read(VIT, ["concatPOOL4"], x, **params)[0].split(48, dim=1)
    (found,) = read(VIT, [name], x, **params)
    torch.testing.assert_close(found, torch.cat([alone[b] for b in blocks], 1))


@pytest.mark.slow
def test_the_default_feature_is_the_class_token_or_the_mean_of_the_patches() -> None:
    x = torch.randn(2, 3, 64, 64)
    for params, name in (
        ({}, "lastCLS"),
        ({"use_class_token": False}, "lastPOOL"),
        ({"classifier": "gap"}, "lastPOOL"),
    ):
        spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": VIT, **TINY, **params}}
        with torch.no_grad():
            default = graphmodel.compile(spec, seed=0, returns="tensor").eval()(x)
        torch.testing.assert_close(default, read(VIT, [name], x, **TINY, **params)[0])


def test_numbers_are_those_of_torchvisions_vision_transformer() -> None:
    x = torch.randn(2, 3, 64, 64)
    ours = disturb(build(VIT, **TINY)).eval()
    theirs = torchvision.models.VisionTransformer(
        64, 16, 4, 3, 48, 96, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    ).eval()
    theirs.heads = nn.Identity()
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in (
            ("cls_token", "class_token"), ("pos_embed", "encoder.pos_embedding"), ("patch_embed.proj", "conv_proj"),
            ("blocks.", "encoder.layers.encoder_layer_"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("mlp.fc1", "mlp.0"),
            ("mlp.fc2", "mlp.3"), ("attn.qkv.", "self_attention.in_proj_"), ("attn.proj", "self_attention.out_proj"),
        ):  # fmt: skip
            key = key.replace(old, new)
        state[f"encoder.ln{key[4:]}" if key.startswith("norm.") else key] = value
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_other_image_sizes_resample_the_position_embedding_bicubically() -> None:
    model = disturb(build(VIT, **TINY)).eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        grid = model.pos_embed[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=6 / 4, mode="bicubic").permute(0, 2, 3, 1).reshape(1, 36, 48)
        larger = build(VIT, **{**TINY, "image_size": 96}).eval()
        state = {**model.state_dict(), "pos_embed": torch.cat([model.pos_embed[:, :1], grid], 1)}
        larger.load_state_dict(state)
        torch.testing.assert_close(model(x), larger(x))


@pytest.mark.slow
def test_images_need_not_be_square_and_an_incomplete_patch_is_left_out() -> None:
    x = torch.randn(2, 3, 48, 90)
    (found,) = read(VIT, ["lastMAP"], x, **TINY)
    assert found.shape == (2, 3, 5, 48)
    (cut,) = read(VIT, ["lastMAP"], x[..., :80], **TINY)
    torch.testing.assert_close(found, cut)


def test_crops_of_several_sizes_go_through_one_trunk() -> None:
    views = [{"count": 2, "shape": [3, 64, 64]}, {"count": 2, "shape": [3, 32, 32]}]
    spec = {"inputs": {"images": {"views": views}}, "trunk": {"name": VIT, **TINY}}
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    crops = [torch.randn(2, 3, s, s) for s in (64, 64, 32, 32)]
    trunk = build(VIT, **TINY).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(crops), torch.cat([trunk(c) for c in crops]))


def test_a_mask_hides_the_patches_it_marks() -> None:
    masking = {"masked_image_modeling": {"name": "ibot"}}
    spec = {
        "inputs": {"images": {"shape": [3, 64, 64], "with": ["mask"]}, "mask": {"shape": [4, 4], "dtype": "bool"}},
        "trunk": {"name": VIT, **TINY, **masking},
        "mapping": [{"from": "images.lastBLK", "as": "tokens"}],
    }
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    embedding = model.get_parameter("trunk.patch_masking.masked_embed")
    assert torch.equal(embedding, torch.zeros(1, 48))
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        embedding.normal_()
        torch.testing.assert_close(model(images, mask), read(VIT, ["lastBLK"], images, **TINY)[0])
        mask[0, 1, 2] = True
        changed = images.clone()
        changed[0, :, 16:32, 32:48] += 1
        torch.testing.assert_close(model(images, mask), model(changed, mask))
        changed[1, :, 16:32, 32:48] += 1
        assert not torch.allclose(model(images, mask)[1], model(changed, mask)[1])


def test_masked_patches_are_the_embedding_itself() -> None:
    masking = PatchMasking(3)
    nn.init.constant_(masking.masked_embed, 5)
    patches = torch.randn(2, 4, 3)
    mask = torch.tensor([[[True, False], [False, False]], [[False, False], [False, True]]])
    want = patches.clone()
    want[0, 0] = want[1, 3] = 5
    assert torch.equal(masking(patches, mask), want)


def test_a_mask_for_a_trunk_that_does_not_mask_is_refused() -> None:
    spec = {
        "inputs": {"images": {"shape": [3, 64, 64], "with": ["mask"]}, "mask": {"shape": [4, 4], "dtype": "bool"}},
        "trunk": {"name": VIT, **TINY},
    }
    with pytest.raises(graphmodel.CompileError, match="masked_image_modeling"):
        graphmodel.compile(spec)


@pytest.mark.parametrize("training", [True, False])
def test_msn_keeps_a_share_of_the_patches_and_the_class_token_in_both_modes(training: bool) -> None:
    masking = {"name": "msn", "params": {"drop_ratio": 0.4, "global_view_tokens": 16}}
    model = build(VIT, **TINY, masked_image_modeling=masking).train(training)
    dropping = model.patch_dropping
    assert isinstance(dropping, PatchDropping)
    tokens = torch.arange(17.0)[None, :, None].expand(2, 17, 3)
    kept = dropping(tokens)
    assert kept.shape == (2, 1 + 9, 3)  # 16 patches, 60 %
    assert torch.equal(kept[0], kept[1])
    assert kept[0, 0, 0] == 0
    assert len(kept[0, :, 0].unique()) == 10
    small = tokens[:, :16]
    assert dropping(small) is small


@pytest.mark.parametrize("variant", ["vit_b_16", "vit_b_32", "vit_l_32", "vit_l_16", "vit_h_14"])
def test_variants_are_torchvisions_sizes_and_override_the_rest(variant: str) -> None:
    ours = shapes(VIT, variant=variant, hidden_dim=48, qkv_bias=True)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, variant)()
    sizes = sorted(tuple(t.shape) for k, t in theirs.state_dict().items() if not k.startswith("heads."))
    assert sorted(ours.values()) == sizes


def test_stochastic_depth_grows_linearly_over_the_blocks() -> None:
    model = build(VIT, **TINY, drop_path_rate=0.3)
    assert [getattr(b.drop_path1, "drop_prob", 0.0) for b in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_an_attention_scale_of_ones_own_is_used() -> None:
    usual, half = build(VIT, **TINY).eval(), build(VIT, **TINY, qk_scale=0.5 * 16**-0.5).eval()
    with torch.no_grad():
        for block in usual.blocks:
            block.attn.qkv.weight[:48].mul_(0.5)  # queries
            block.attn.qkv.bias[:48].mul_(0.5)
        x = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(half(x), usual(x))


@pytest.mark.parametrize("name", ["blkCLS4", "stridePOOL_0", "concatCLS2_1", "lastXYZ"])
def test_features_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(graphmodel.CompileError, match=name) as caught:
        compiled(VIT, [name], (3, 64, 64), **TINY)
    assert caught.value.diagnostics[0].code == "GM213"


def test_a_class_token_is_no_feature_of_a_trunk_without_one() -> None:
    family, params = find_trunk(VIT), params_of(VIT, **TINY, use_class_token=False)
    assert family is not None
    assert [family.find(n, params, nn.Module()) for n in ("lastCLS", "blkCLS0", "concatCLS2")] == [None] * 3


@pytest.mark.parametrize(("shape", "word"), [((3, 8, 64), "patch"), ((1, 64, 64), "channels"), ((3, 64), "channels")])
def test_impossible_inputs_are_refused(shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(graphmodel.CompileError, match=word):
        compiled(VIT, ["lastCLS"], shape, **TINY)


@pytest.mark.parametrize("params", [{"num_heads": 5}, {"variant": "vit_b_17"}, {"dropout_rate": 1.5}])
def test_what_is_no_vision_transformer_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        compiled(VIT, ["lastCLS"], (3, 64, 64), **{**TINY, **params})
    assert str(next(iter(params.values()))) in str(caught.value)


def test_a_lab_trunk_reads_one_channel() -> None:
    assert build(VIT, "lab", **TINY).patch_embed.proj.in_channels == 1


def test_features_can_be_had_without_the_final_norm() -> None:
    x = torch.randn(2, 3, 64, 64)
    names = ["lastBLK", "lastCLS", "concatCLS2", "concatPOOL1", "blocks.1"]
    reference = timms()
    with torch.no_grad():
        _, blocks = reference.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
    raw = [torch.cat([prefix, patches], 1) for patches, prefix in blocks]
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": VIT, **TINY},
        "mapping": [{"from": f"images.{n}", "as": f"o{i}", "norm": False} for i, n in enumerate(names)]
        + [{"from": "images.blocks.1", "as": "normed", "norm": True}],
    }
    model = graphmodel.compile(spec, seed=0, returns="tuple").eval()
    wanted = [raw[3], raw[3][:, 0], torch.cat([raw[2][:, 0], raw[3][:, 0]], 1), raw[3][:, 1:].mean(1), raw[1]]
    with torch.no_grad():
        for found, want in zip(model(x), [*wanted, reference.norm(raw[1])], strict=True):
            torch.testing.assert_close(found, want)


@pytest.mark.slow
def test_tokens_and_layouts_know_the_class_token() -> None:
    x = torch.randn(2, 3, 64, 64)
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": VIT, **TINY},
        "mapping": [
            {"from": "images.lastBLK", "as": "patches", "tokens": "patch"},
            {"from": "images.lastBLK", "as": "channels_first", "layout": "nchw"},
            {"from": "images.lastMAP", "as": "channels_last"},
        ],
    }
    with torch.no_grad():
        out = graphmodel.compile(spec, seed=0).eval()(x)
    torch.testing.assert_close(out["patches"], out["channels_last"].flatten(1, 2))
    torch.testing.assert_close(out["channels_first"], out["channels_last"].permute(0, 3, 1, 2))
