from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchvision

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import build, compiled, disturb, params_of, read

TINY: dict[str, Any] = {
    "image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96,
}  # fmt: skip


def classys(key: str) -> str:
    """torchvision's key in ClassyVision, from which torchvision's module comes."""
    key = key.replace("encoder_layer_", "layer_").replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")
    return f"model.{key}"


def test_a_checkpoint_of_classyvision_gives_torchvisions_numbers() -> None:
    theirs = disturb(torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96)).eval()
    theirs.heads = torch.nn.Identity()
    checkpoint = {
        classys(k): v.transpose(0, 1) if k.endswith("pos_embedding") else v for k, v in theirs.state_dict().items()
    }
    spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "classy_vit", **TINY}}
    model = graphmodel.compile(spec, returns="tensor").eval()
    report = graphmodel.load_weights(model, {f"trunk.{k}": v for k, v in checkpoint.items()}, dialect="vissl")
    assert not report.missing
    assert not report.unexpected
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x))


def test_attention_has_a_bias_whatever_is_written() -> None:
    assert build("classy_vit", **TINY, qkv_bias=False).blocks[0].attn.qkv.bias is not None


def test_gap_averages_the_patches_of_a_trunk_without_class_token() -> None:
    x = torch.randn(2, 3, 64, 64)
    trunk = build("classy_vit", **TINY, classifier="gap").eval()
    assert trunk.cls_token is None
    assert trunk.pos_embed.shape == (1, 16, 48)
    with torch.no_grad():
        wanted = trunk.norm(trunk.blocks(trunk.patch_embed(x).flatten(1, 2) + trunk.pos_embed)).mean(1)
    (found,) = read("classy_vit", ["lastPOOL"], x, **TINY, classifier="gap")
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["avgpool", "flatten"])
def test_the_vector_goes_by_a_convnets_names_too(name: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    named, usual = read("classy_vit", [name, "lastCLS"], x, **TINY)
    assert torch.equal(named, usual)


def test_every_key_is_translated() -> None:
    family, params = find_trunk("classy_vit"), params_of("classy_vit", **TINY)
    assert family is not None
    ours = build("classy_vit", **TINY).state_dict()
    theirs = [k for k in torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96).state_dict() if "heads" not in k]
    assert {family.from_vissl_key(classys(k), params) for k in theirs} == set(ours)
    assert not any(re.search("classy|layer_|ln_", k) for k in ours)


def test_unknown_features_are_refused() -> None:
    with pytest.raises(graphmodel.CompileError, match="res5"):
        compiled("classy_vit", ["res5"], (3, 64, 64), **TINY)
