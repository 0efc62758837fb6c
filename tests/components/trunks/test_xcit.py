from __future__ import annotations

from typing import Any

import pytest
import timm.models.xcit as timm_xcit
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read

TINY: dict[str, Any] = {"image_size": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_ratio": 2.0}


def timms(**options: Any) -> timm_xcit.Xcit:
    torch.manual_seed(0)
    usual = {
        "img_size": 64,
        "depth": 2,
        "num_heads": 4,
        "embed_dim": 64,
        "mlp_ratio": 2.0,
        "num_classes": 0,
        "tokens_norm": True,
    }
    return timm_xcit.Xcit(**{**usual, **options}).eval()


@pytest.mark.parametrize("patch", [8, 16])
def test_weights_are_what_timm_draws_under_the_seed(patch: int) -> None:
    assert_same_state(build("xcit", **TINY, patch_size=patch), timms(patch_size=patch))


@pytest.mark.parametrize("side", [64, 48, 100])
@pytest.mark.parametrize("norm", [True, False])
def test_features_are_the_values_inside_timms_model(side: int, norm: bool) -> None:
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        tokens = timms(tokens_norm=norm).forward_features(x)
    rows = -(-side // 16)
    wanted = [tokens[:, 0], tokens[:, 1:].reshape(2, rows, rows, 64), tokens, tokens[:, 1:].mean(1)]
    found = read("xcit", ["lastCLS", "lastMAP", "lastBLK", "lastPOOL"], x, **TINY, tokens_norm=norm)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want)


def test_crops_of_several_sizes_go_through_one_trunk() -> None:
    views = [{"count": 2, "shape": [3, 64, 64]}, {"count": 1, "shape": [3, 32, 32]}]
    spec = {"inputs": {"images": {"views": views}}, "trunk": {"name": "xcit", **TINY}}
    model = graphmodel.compile(spec, seed=0, returns="tensor").eval()
    crops, trunk = [torch.randn(2, 3, s, s) for s in (64, 64, 32)], timms()
    with torch.no_grad():
        torch.testing.assert_close(model(crops), torch.cat([trunk(c) for c in crops]))


class OneMatrixAttention(nn.Module):
    """Class attention by one matrix for queries, keys and values, as the authors and VISSL write it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4)
        scores = F.softmax((q[:, :, :1] * k).sum(-1) / 4, -1)
        return self.proj((scores[:, :, None] @ v).reshape(len(x), 1, 64))


def test_a_checkpoint_with_one_matrix_in_the_class_attention_is_split_in_three() -> None:
    family, params = find_trunk("xcit"), params_of("xcit", **TINY)
    assert family is not None
    theirs = OneMatrixAttention()
    checkpoint = {f"trunk.cls_attn_blocks.1.attn.{k}": v for k, v in theirs.state_dict().items()}
    split = family.from_vissl_tensors({**checkpoint, "trunk.blocks.0.attn.qkv.weight": torch.zeros(192, 64)}, params)
    assert split["trunk.blocks.0.attn.qkv.weight"].shape == (192, 64)
    ours = timms().cls_attn_blocks[1].attn
    prefix = "trunk.cls_attn_blocks.1.attn."
    ours.load_state_dict({k.removeprefix(prefix): v for k, v in split.items() if k.startswith(prefix)})
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_vissl_keys_are_timms_but_for_the_position_encoding() -> None:
    family, params = find_trunk("xcit"), params_of("xcit", **TINY)
    assert family is not None
    for key in build("xcit", **TINY).state_dict():
        assert family.from_vissl_key(key.replace("pos_embed.", "pos_embeder."), params) == key


def test_stochastic_depth_is_the_same_in_every_block() -> None:
    model = build("xcit", **TINY, drop_path_rate=0.2)
    assert [b.drop_path1.drop_prob for b in model.blocks] == [0.2, 0.2]
    assert all(isinstance(b.drop_path1, nn.Identity) for b in model.cls_attn_blocks)


def test_layer_scale_starts_at_eta() -> None:
    model = disturb(build("xcit", **TINY, eta=1e-5))
    torch.testing.assert_close(build("xcit", **TINY, eta=1e-5).blocks[0].gamma2, torch.full((64,), 1e-5))
    assert not torch.equal(model.blocks[0].gamma2, torch.full((64,), 1e-5))


def test_patches_of_another_size_are_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="patch_size"):
        compiled("xcit", ["lastCLS"], (3, 64, 64), **TINY, patch_size=32)
