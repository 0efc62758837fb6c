"""Position embeddings are resized to the model's own grid, square or not, as timm does."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

import graphmodel
from graphmodel import CompileError
from graphmodel.components.positions import is_position_embedding

NAME = "vit_tiny_patch16_224"


def compiled(size: tuple[int, int], name: str = NAME, **params: Any) -> graphmodel.CompiledModel:
    trunk = {"name": f"timm:{name}", "img_size": list(size), "depth": 1, **params}
    return graphmodel.compile({"inputs": {"images": [3, *size]}, "trunk": trunk}, seed=0)


def published(name: str = NAME, **params: Any) -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(name, depth=1, **params)
    nn.init.normal_(model.pos_embed)
    return model


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(96, 96), (96, 160), (64, 256), (256, 64), (384, 384), (16, 16)])
def test_they_are_resized_to_the_models_grid(size: tuple[int, int], antialias: bool) -> None:
    theirs, model = published(), compiled(size)
    report = graphmodel.load_weights(model, theirs.state_dict(), interpolate=True, antialias=antialias)
    grid = [size[0] // 16, size[1] // 16]
    wanted = resample_abs_pos_embed(theirs.pos_embed, grid, num_prefix_tokens=1, antialias=antialias)
    assert torch.equal(model.trunk.pos_embed, wanted)
    assert report.resized == ["trunk.pos_embed"]
    assert report.missing == []


def test_the_result_is_that_of_timms_own_loader() -> None:
    theirs = published()
    other = timm.create_model(NAME, depth=1, img_size=(96, 160))
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), other))
    model = compiled((96, 160))
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=True, antialias=True)
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        ours = model.eval()(x)
        assert torch.allclose(next(iter(ours.values())), other.eval().forward_features(x)[:, 0], atol=1e-5)


def test_class_and_register_tokens_stay() -> None:
    theirs = published("vit_base_patch16_224", embed_dim=24, num_heads=2, reg_tokens=3)
    model = compiled((64, 96), "vit_base_patch16_224", embed_dim=24, num_heads=2, reg_tokens=3)
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=True)
    assert model.trunk.pos_embed.shape[1] == 4 + 4 * 6
    assert torch.equal(model.trunk.pos_embed[:, :4], theirs.pos_embed[:, :4])


def test_a_plain_load_says_how() -> None:
    with pytest.raises(CompileError, match="interpolate=True") as caught:
        graphmodel.load_weights(compiled((96, 96)), published().state_dict())
    assert caught.value.diagnostics[0].code == "GM512"


def test_the_checkpoints_own_grid_may_be_given() -> None:
    theirs = published(img_size=(64, 256))
    model = compiled((96, 96))
    with pytest.raises(CompileError):  # 8x8 is no way to read 4x16, yet both have 64 patches
        graphmodel.load_weights(model, {**theirs.state_dict(), "pos_embed": theirs.pos_embed[:, :-1]}, interpolate=True)
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=(4, 16))
    wanted = resample_abs_pos_embed(theirs.pos_embed, [6, 6], old_size=[4, 16], antialias=False)
    assert torch.equal(model.trunk.pos_embed, wanted)


def test_as_many_patches_in_another_grid_are_reported() -> None:
    theirs = published(img_size=(128, 128))
    model = compiled((64, 256))
    with pytest.warns(UserWarning, match="4x16 grid"):
        report = graphmodel.load_weights(model, theirs.state_dict(), interpolate=True)
    assert torch.equal(model.trunk.pos_embed, theirs.pos_embed)
    assert "interpolate=(8, 8)" in report.warnings[0].help
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=(8, 8))
    wanted = resample_abs_pos_embed(theirs.pos_embed, [4, 16], old_size=[8, 8], antialias=False)
    assert torch.equal(model.trunk.pos_embed, wanted)


def learned(name: str, **params: Any) -> nn.Module:
    """timm's model with position embeddings that differ."""
    torch.manual_seed(3)
    model = timm.create_model(name, **params)
    for key, parameter in model.named_parameters():
        if "pos_embed" in key:
            nn.init.normal_(parameter)
    return model


def test_a_grid_that_the_trunk_does_not_name_has_the_proportions_of_the_image() -> None:
    # Hiera has 16x64 tokens then, which are as many as 32x32.
    theirs = learned("hiera_tiny_224", img_size=64)
    spec = {"inputs": {"images": [3, 64, 256]}, "trunk": {"name": "timm:hiera_tiny_224", "img_size": [64, 256]}}
    model = graphmodel.compile(spec, seed=0)
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=True)
    wanted = resample_abs_pos_embed(theirs.pos_embed, [16, 64], num_prefix_tokens=0, antialias=False)
    assert torch.equal(model.trunk.pos_embed, wanted)


class Wide(nn.Module):
    """A trunk that says nothing about its grid: 4 rows of 16 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.pos_embed = nn.Conv2d(3, 6, 16, 16), nn.Parameter(torch.zeros(1, 65, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        return x.mean(1) + self.pos_embed[:, 0]


def test_so_has_that_of_a_trunk_of_ones_own() -> None:
    spec = {"inputs": {"images": [3, 64, 256]}, "trunk": "given"}
    model = graphmodel.compile(spec, trunks={"trunk": Wide()})
    stored = {"proj.weight": model.trunk.proj.weight, "proj.bias": model.trunk.proj.bias}
    embedding = torch.randn(1, 1 + 9, 6)
    graphmodel.load_weights(model, {**stored, "pos_embed": embedding}, interpolate=True)
    wanted = resample_abs_pos_embed(embedding, [4, 16], old_size=[3, 3], antialias=False)
    assert torch.equal(model.trunk.pos_embed, wanted)


def test_tables_of_blocks_are_not_resized() -> None:
    theirs = learned("nest_tiny", img_size=64)  # (1, blocks, positions, C) is not a map
    trunk = {"name": "timm:nest_tiny", "img_size": 128}
    model = graphmodel.compile({"inputs": {"images": [3, 128, 128]}, "trunk": trunk}, device="meta")
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, theirs.state_dict(), interpolate=True)
    assert caught.value.diagnostics[0].code == "GM512"


def test_tables_of_one_axis_are_no_grid() -> None:
    assert is_position_embedding("blocks.0.pos_embed")
    assert is_position_embedding("pos_embed_spatial")
    assert not is_position_embedding("pos_embed_x")
    assert not is_position_embedding("embeds.pos_embed_temporal")


@pytest.mark.slow
def test_torchvisions_embedding_too() -> None:
    from torchvision.models import vit_b_16

    spec = {"inputs": {"images": [3, 96, 96]}, "trunk": {"name": "torchvision:vit_b_16", "image_size": 96}}
    model = graphmodel.compile(spec, seed=0)
    theirs = vit_b_16()
    graphmodel.load_weights(model, theirs.state_dict(), interpolate=True)
    wanted = resample_abs_pos_embed(theirs.encoder.pos_embedding, [6, 6], antialias=False)
    assert torch.equal(model.trunk.encoder.pos_embedding, wanted)
