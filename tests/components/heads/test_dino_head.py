from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.components.heads.dino_head import DinoHead, DinoHeadFsdp, DinoParams, WeightNormLinear
from graphmodel.components.heads.ibot_head import IbotHeadFsdp, IbotParams
from graphmodel.components.tensors import TensorInfo

SMALL: dict[str, Any] = {"in_dim": 12, "num_clusters": [20], "hidden_dim": 16, "bottleneck_dim": 8}


def test_numbers_are_those_of_weight_norm() -> None:
    ours = WeightNormLinear(8, 20, train_length=True)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(8, 20, bias=False))
    nn.init.normal_(ours.weight_g)
    state = ours.state_dict()
    theirs.load_state_dict(
        {
            "parametrizations.weight.original0": state["weight_g"],
            "parametrizations.weight.original1": state["weight_v"],
        }
    )
    x = torch.randn(5, 8, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x))
    for a, b in zip(
        torch.autograd.grad(ours(x).square().sum(), [x, *ours.parameters()]),
        torch.autograd.grad(theirs(x).square().sum(), [x, *theirs.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use_bn", [True, False])
def test_the_head_is_an_mlp_with_gelu_then_unit_vectors_then_prototypes(use_bn: bool) -> None:
    head = DinoHead(DinoParams(**SMALL, use_bn=use_bn))
    norm = [nn.BatchNorm1d(16)] if use_bn else []
    mlp = nn.Sequential(
        nn.Linear(12, 16), *norm, nn.GELU(), nn.Linear(16, 16), *copy.deepcopy(norm), nn.GELU(), nn.Linear(16, 8)
    )
    mlp.load_state_dict(head.mlp.state_dict())
    x = torch.randn(6, 12)
    vectors = mlp(x)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    prototypes = head.prototypes0.weight_v / head.prototypes0.weight_v.norm(dim=1, keepdim=True)
    (found,) = head(x)
    torch.testing.assert_close(found, vectors @ prototypes.T)


def test_a_single_layer_is_a_linear_one() -> None:
    head = DinoHead(DinoParams(**SMALL, num_layers=1))
    assert [k for k in head.state_dict() if k.startswith("mlp")] == ["mlp.weight", "mlp.bias"]
    assert head.mlp.weight.shape == (8, 12)


@pytest.mark.parametrize("fixed", [True, False])
def test_prototypes_of_length_one_do_not_train_their_length(fixed: bool) -> None:
    head = DinoHead(DinoParams(**SMALL, normalize_last_layer=fixed))
    assert head.prototypes0.weight_g.requires_grad is not fixed
    assert torch.equal(head.prototypes0.weight_g, torch.ones(20, 1))


def test_weights_start_small_and_biases_at_zero() -> None:
    head = DinoHead(DinoParams(**{**SMALL, "hidden_dim": 512}))
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.mlp[2].bias.any()


def model(**head: Any) -> nn.Module:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {"dino": {"dino_head": {"num_clusters": [20], "hidden_dim": 16, "bottleneck_dim": 8, **head}}},
    }
    return graphmodel.compile(spec, seed=0).eval()


def test_a_model_with_the_head_pickles_and_copies() -> None:
    original, x = model(), torch.randn(2, 3, 32, 32)
    file = io.BytesIO()
    torch.save(original, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), copy.deepcopy(original)):
        assert torch.equal(twin(x)["dino"], original(x)["dino"])
        assert not twin.get_parameter("heads.dino.prototypes0.weight_g").requires_grad


@pytest.mark.parametrize("fixed", [True, False])
def test_the_fsdp_variants_keep_lengths_that_are_not_trained_as_buffers(fixed: bool) -> None:
    """VISSL: `NormalizedLinearLayer` registers `weight_g` as a buffer, so that all parameters of the head train."""
    dino = DinoHeadFsdp(DinoParams(**SMALL, normalize_last_layer=fixed))
    ibot = IbotHeadFsdp(IbotParams(in_dim=12, out_dim=20, hidden_dim=16, bottleneck_dim=8, normalize_last_layer=fixed))
    for head in (dino, ibot):
        buffers = [name for name, _ in head.named_buffers() if name.endswith("weight_g")]
        assert bool(buffers) is fixed
        assert all(p.requires_grad for p in head.parameters())
        assert "prototypes0.weight_g" in head.state_dict()
    plain = DinoHead(DinoParams(**SMALL, normalize_last_layer=fixed))
    plain.load_state_dict(dino.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(plain(x)[0], dino(x)[0])


def test_the_fsdp_name_is_the_same_head() -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
    twin = graphmodel.compile(
        {**spec, "heads": {"dino": {"dino_head_fsdp": {"num_clusters": [20], "hidden_dim": 16, "bottleneck_dim": 8}}}},
        seed=0,
    )
    assert set(twin.state_dict()) == set(model().state_dict())


def test_tokens_are_projected_one_by_one() -> None:
    head = DinoHead(DinoParams(**SMALL).infer(TensorInfo((2, 5, 12))))
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(head(x)[0][:, 3], head(x[:, 3])[0])


def test_a_width_that_is_not_the_features_is_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match=r"wants 7 features.*512") as caught:
        model(in_dim=7)
    assert caught.value.diagnostics[0].code == "GM304"


def test_only_one_set_of_prototypes_is_taken() -> None:
    with pytest.raises(graphmodel.CompileError, match="num_clusters"):
        model(num_clusters=[10, 20])


def test_batch_norm_over_tokens_is_refused() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "vision_transformer", "image_size": 32, "num_layers": 1, "hidden_dim": 24, "num_heads": 2},
        "heads": {"dino": {"dino_head": {"num_clusters": [20], "use_bn": True}}},
        "mapping": [{"from": "images.lastBLK", "head": "dino"}],
    }
    with pytest.raises(graphmodel.CompileError, match="sequence of tokens"):
        graphmodel.compile(spec)
