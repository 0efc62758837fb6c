from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

import graphmodel
from graphmodel.components.heads.ibot_head import (
    IbotDistillationHead,
    IbotDistillationParams,
    IbotHead,
    IbotParams,
    TokenMlp,
)

SMALL: dict[str, Any] = {"in_dim": 12, "out_dim": 20, "hidden_dim": 16}
TOKENS = torch.randn(3, 5, 12)


def scores(prototypes: nn.Module, x: torch.Tensor) -> torch.Tensor:
    v = prototypes.weight_v
    return F.linear(x, v / v.norm(dim=1, keepdim=True) * prototypes.weight_g)


def test_the_class_token_and_the_patches_have_prototypes_of_their_own() -> None:
    head = IbotHead(IbotParams(**SMALL, patch_out_dim=7, bottleneck_dim=8)).eval()
    vectors = F.normalize(nn.Sequential(*head.mlp)(TOKENS), dim=-1)
    cls, patches = head(TOKENS)
    torch.testing.assert_close(cls, scores(head.prototypes0, vectors[:, 0]))
    torch.testing.assert_close(patches, scores(head.prototypes1, vectors[:, 1:]))
    assert patches.shape == (3, 4, 7)


def test_a_class_token_alone_gives_one_tensor() -> None:
    head = IbotHead(IbotParams(**SMALL, bottleneck_dim=8)).eval()
    (found,) = head(TOKENS[:, 0])
    torch.testing.assert_close(found, head(TOKENS)[0])


def test_shared_prototypes_are_one_module_and_ignore_the_patches_width() -> None:
    head = IbotHead(IbotParams(**SMALL, shared_head=True, patch_out_dim=7, last_norm="bn"))
    assert head.prototypes1 is head.prototypes0
    assert head.last_norm2 is head.last_norm
    assert head(TOKENS)[1].shape == (3, 4, 20)
    assert {"prototypes0.weight_g", "prototypes1.weight_g"} <= set(head.state_dict())


def test_one_norm_serves_all_hidden_layers() -> None:
    head = IbotHead(IbotParams(**SMALL, norm="bn", num_layers=4, act="relu"))
    norms = [m for m in head.mlp if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 3
    assert norms[0] is norms[1] is norms[2]
    assert [type(m) for m in head.mlp[:3]] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]


def test_batch_norm_counts_every_token_as_a_row() -> None:
    norm, twin = nn.BatchNorm1d(12), nn.BatchNorm1d(12)
    found = TokenMlp(norm)(TOKENS)
    torch.testing.assert_close(found, twin(TOKENS.reshape(15, 12)).reshape(3, 5, 12))
    torch.testing.assert_close(norm.running_var, twin.running_var)


@pytest.mark.parametrize("last_norm", ["bn", "syncbn", "ln"])
def test_outputs_are_normalised_without_parameters(last_norm: str) -> None:
    head = IbotHead(IbotParams(**SMALL, last_norm=last_norm, patch_out_dim=7))
    assert not [n for n, _ in head.named_parameters() if "last_norm" in n]
    cls, patches = head(TOKENS)
    dims = (0, 1) if last_norm != "ln" else (2,)
    torch.testing.assert_close(patches.mean(dims), torch.zeros_like(patches.mean(dims)), atol=1e-5, rtol=0)
    assert cls.shape == (3, 20)


def test_synchronised_norms_keep_the_numbers_once_converted() -> None:
    head = IbotHead(IbotParams(**SMALL, norm="bn")).eval()
    want = head(TOKENS)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    for a, b in zip(converted(TOKENS), want, strict=True):
        torch.testing.assert_close(a, b)


def test_the_distillation_head_ends_in_linear_layers() -> None:
    head = IbotDistillationHead(IbotDistillationParams(**SMALL, patch_out_dim=7)).eval()
    assert [type(m) for m in head.mlp] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU]
    hidden = nn.Sequential(*head.mlp)(TOKENS)
    cls, patches = head(TOKENS)
    torch.testing.assert_close(cls, head.to_class_out(hidden[:, 0]))
    torch.testing.assert_close(patches, head.to_patch_out(hidden[:, 1:]))
    (alone,) = head(TOKENS[:, 0])
    torch.testing.assert_close(alone, cls)


def test_a_shared_distillation_head_has_one_last_layer() -> None:
    head = IbotDistillationHead(IbotDistillationParams(**SMALL, shared_head=True))
    assert head.to_patch_out is head.to_class_out
    assert head(TOKENS)[1].shape == (3, 4, 20)


def compiled(head: dict[str, Any]) -> nn.Module:
    spec = {
        "inputs": {"global_views": [3, 32, 32], "local_views": [3, 16, 16]},
        "trunk": {
            "name": "vision_transformer", "image_size": 32, "patch_size": 8, "num_layers": 1, "hidden_dim": 12,
            "num_heads": 2, "mlp_dim": 12,
        },
        "heads": {"ibot": head},
        "mapping": [
            {"from": "global_views.lastBLK", "head": "ibot", "as": "large"},
            {"from": "local_views.lastCLS", "head": "ibot", "as": "small"},
        ],
    }  # fmt: skip
    return graphmodel.compile(spec, seed=0)


@pytest.mark.parametrize("name", ["ibot_head", "ibot_distillation_head"])
def test_one_head_reads_tokens_and_class_tokens(name: str) -> None:
    model = compiled({name: {"out_dim": 20, "patch_out_dim": 7, "hidden_dim": 16}})
    out = model(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16))
    shapes = {k: tuple(v.shape) for k, v in out.items()}
    assert shapes == {"large.class": (2, 20), "large.patches": (2, 16, 7), "small": (2, 20)}


@pytest.mark.parametrize("name", ["ibot_head", "ibot_distillation_head"])
@pytest.mark.parametrize("trace", [fx.symbolic_trace, lambda model: fuse(model.eval())], ids=["trace", "fuse"])
def test_other_passes_of_torch_fx_trace_both_uses(name: str, trace: Any) -> None:
    model = compiled({name: {"out_dim": 20, "patch_out_dim": 7, "hidden_dim": 16, "norm": "bn", "last_norm": "bn"}})
    traced = trace(copy.deepcopy(model))
    model.train(traced.training)
    for size in (32, 48):  # the code follows the size, and so does what is recorded of it
        inputs = torch.randn(2, 3, size, 32), torch.randn(2, 3, 16, 16)
        want, found = model(*inputs), traced(*inputs)
        assert list(want) == list(found) == ["large.class", "large.patches", "small"]
        for key, value in want.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    state = traced.state_dict()
    for key, value in model.named_buffers():
        if traced.training and "last_norm" in key:
            torch.testing.assert_close(state[key], value)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ibot_head", {"in_dim": 13}),
        ("ibot_head", {"norm": "gn"}),
        ("ibot_head", {"act": "silu"}),
        ("ibot_distillation_head", {"num_layers": 1}),
    ],
)
def test_what_the_head_cannot_be_is_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(graphmodel.CompileError, match=next(iter(params))):
        compiled({name: {"out_dim": 20, **params}})
