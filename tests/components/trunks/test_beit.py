from __future__ import annotations

from typing import Any

import pytest
import timm.models.beit as timm_beit
import torch
from torch.nn import functional as F

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import assert_same_state, build, compiled, disturb, params_of, read

TINY: dict[str, Any] = {"image_size": 64, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_ratio": 2.0}


def timms(**options: Any) -> timm_beit.Beit:
    torch.manual_seed(0)
    usual = {
        "img_size": 64,
        "depth": 2,
        "num_heads": 3,
        "embed_dim": 48,
        "mlp_ratio": 2.0,
        "qkv_bias": False,
        "num_classes": 0,
        "global_pool": "token",
    }
    return timm_beit.Beit(**{**usual, **options}).eval()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"qkv_bias": True, "init_values": 0.1, "use_rel_pos_bias": True},
        {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": False},
    ],
)
def test_weights_are_what_timm_draws_under_the_seed(params: dict[str, Any]) -> None:
    assert_same_state(build("beit", **TINY, use_mean_pooling=False, **params), timms(**params))


def test_features_are_the_values_inside_timms_model() -> None:
    x = torch.randn(2, 3, 64, 64)
    params = {"use_mean_pooling": False, "use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}
    reference = timms(use_rel_pos_bias=True, use_shared_rel_pos_bias=True)
    with torch.no_grad():
        last, blocks = reference.forward_intermediates(x, norm=True, output_fmt="NLC", return_prefix_tokens=True)
    classes = [prefix[:, 0] for _, prefix in blocks]
    wanted = [last[:, 0], classes[0], torch.cat(classes, 1), last[:, 1:].reshape(2, 4, 4, 48)]
    found = read("beit", ["lastCLS", "blkCLS0", "concatCLS2", "lastMAP"], x, **TINY, **params)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want)


def test_mean_pooling_leaves_out_the_norm_and_keeps_the_class_token() -> None:
    x = torch.randn(2, 3, 64, 64)
    reference = timms(global_pool="avg")
    with torch.no_grad():
        raw = reference.forward_features(x)[:, 0]
    (found,) = read("beit", ["lastCLS"], x, **TINY)
    torch.testing.assert_close(found, raw)


def test_relative_positions_are_looked_up_by_offset() -> None:
    trunk = disturb(build("beit", **TINY, use_rel_pos_bias=True)).eval()
    attention = trunk.blocks[0].attn
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
        table, x = attention.relative_position_bias_table, torch.randn(1, 17, 48)
        bias = torch.zeros(3, 17, 17)
        for i in range(17):
            for j in range(17):
                if i and j:
                    down, across = (i - 1) // 4 - (j - 1) // 4, (i - 1) % 4 - (j - 1) % 4
                    bias[:, i, j] = table[(down + 3) * 7 + across + 3]
                else:
                    bias[:, i, j] = table[-1 if i == j else (-3 if i == 0 else -2)]
        q, k, v = attention.qkv(x).reshape(17, 3, 3, 16).permute(1, 2, 0, 3)
        want = attention.proj((F.softmax(q @ k.mT / 4 + bias, -1) @ v).transpose(0, 1).reshape(1, 17, 48))
        torch.testing.assert_close(attention(x), want)


def test_another_image_size_is_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="one size, 64×64") as caught:
        compiled("beit", ["lastCLS"], (3, 96, 96), **TINY)
    assert caught.value.diagnostics[0].code == "GM305"


def test_vissl_keys_are_timms_and_its_index_is_left_out() -> None:
    family, params = find_trunk("beit"), params_of("beit", **TINY)
    assert family is not None
    assert family.from_vissl_key("blocks.0.attn.relative_position_index", params) is None
    assert family.from_vissl_key("blocks.0.attn.q_bias", params) == "blocks.0.attn.q_bias"
