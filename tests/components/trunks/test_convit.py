from __future__ import annotations

from typing import Any

import pytest
import timm.models.convit as timm_convit
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read

TINY: dict[str, Any] = {
    "image_size": 64, "num_layers": 3, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96, "n_gpsa_layers": 2,
}  # fmt: skip


def timms(**options: Any) -> timm_convit.ConVit:
    torch.manual_seed(0)
    usual = {
        "img_size": 64,
        "depth": 3,
        "num_heads": 4,
        "embed_dim": 12,
        "mlp_ratio": 2,
        "num_classes": 0,
        "local_up_to_layer": 2,
    }
    return timm_convit.ConVit(**{**usual, "norm_layer": nn.LayerNorm, **options}).eval()


def test_weights_are_what_timm_draws_under_the_seed() -> None:
    ours, theirs = build("convit", **TINY, locality_dim=1), timms()
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("copies", [1, 10])
def test_numbers_are_timms_however_often_positions_are_repeated(copies: int) -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = timms()(x)
        (found,) = read("convit", ["pooled"], x, **TINY, locality_dim=copies)
    torch.testing.assert_close(found, want)


def test_scores_of_positions_are_the_projected_offsets_over_their_copies() -> None:
    trunk = disturb(build("convit", **TINY, locality_dim=3))
    attention = trunk.blocks[0].attn
    nn.init.normal_(attention.pos_proj.weight)
    offsets = torch.zeros(9, 9, 9)
    for i in range(9):
        for j in range(9):
            x, y = j % 3 - i % 3, j // 3 - i // 3
            offsets[i, j] = torch.tensor([x] * 3 + [y] * 3 + [x * x + y * y] * 3)
    with torch.no_grad():
        want = F.linear(offsets, attention.pos_proj.weight, attention.pos_proj.bias).permute(2, 0, 1) / 3
        torch.testing.assert_close(attention.position_scores(9), want)


def test_local_layers_start_as_convolutions_unless_told_not_to() -> None:
    local = build("convit", **TINY)
    assert torch.equal(local.blocks[0].attn.v.weight, torch.eye(48))
    assert not torch.equal(build("convit", **TINY, use_local_init=False).blocks[0].attn.v.weight, torch.eye(48))


def test_other_image_sizes_are_those_of_a_trunk_made_for_them() -> None:
    small = disturb(build("convit", **TINY)).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        grid = small.pos_embed.reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=6 / 4, mode="bicubic").permute(0, 2, 3, 1).reshape(1, 36, 48)
        large = build("convit", **{**TINY, "image_size": 96}).eval()
        large.load_state_dict({**small.state_dict(), "pos_embed": grid})
        torch.testing.assert_close(small(x), large(x))


def test_gap_averages_all_tokens() -> None:
    x = torch.randn(2, 3, 64, 64)
    tokens, pooled = read("convit", ["lastBLK", "pooled"], x, **TINY, classifier="gap")
    assert tokens.shape == (2, 17, 48)
    torch.testing.assert_close(pooled, tokens.mean(1))


def test_where_every_layer_is_local_there_is_no_class_token() -> None:
    x = torch.randn(2, 3, 64, 64)
    tokens, pooled = read("convit", ["lastBLK", "lastCLS"], x, **{**TINY, "n_gpsa_layers": 3})
    assert tokens.shape == (2, 16, 48)
    torch.testing.assert_close(pooled, tokens[:, 0])


def test_a_class_token_in_local_layers_is_refused_and_one_before_global_layers_is_not() -> None:
    with pytest.raises(graphmodel.CompileError, match="class_token_in_local_layers"):
        compiled("convit", ["pooled"], (3, 64, 64), **TINY, class_token_in_local_layers=True)
    x = torch.randn(2, 3, 64, 64)
    params = {**TINY, "n_gpsa_layers": 0}
    (early,) = read("convit", ["pooled"], x, **params, class_token_in_local_layers=True)
    torch.testing.assert_close(early, read("convit", ["pooled"], x, **params)[0])


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="square") as caught:
        compiled("convit", ["pooled"], (3, 64, 96), **TINY)
    assert caught.value.diagnostics[0].code == "GM305"


def test_vissls_checkpoint_fills_every_tensor() -> None:
    family, params = find_trunk("convit"), params_of("convit", **TINY)
    assert family is not None
    ours = build("convit", **TINY).state_dict()
    theirs = {}
    for key, value in ours.items():
        key = key.replace("cls_token", "class_token").replace("pos_embed", "pos_embedding")
        key = key.replace("mlp.fc", "mlp.linear_")
        if key.endswith("gating_param"):
            key, value = key.replace("gating_param", "alpha"), value.reshape(1, 4, 1, 1)
        theirs[f"trunk.{key}"] = value
    theirs["trunk.patch_embed.proj.bias"] = theirs["trunk.patch_embed.proj.bias"].clone()
    back = {family.from_vissl_key(k[6:], params): v for k, v in family.from_vissl_tensors(theirs, params).items()}
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}
