"""Layouts, tokens and norms on edges, against timm's own conversions and against the arithmetic written out."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import graphmodel
from graphmodel.components.features import Feature
from graphmodel.tracing.layout import FeatureLayout, infer_layout

VIT = "timm:test_vit"  # 160 pixels, patches of 16, a class token, 64 wide
REGISTERS = {"name": "timm:vit_tiny_patch16_224", "depth": 2, "reg_tokens": 3, "img_size": 32}
SWIN = {"name": "timm:swin_tiny_patch4_window7_224", "depths": [2, 2, 2, 2], "img_size": 64, "window_size": 4}


def spec(trunk: Any, shape: tuple[int, ...], *sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    mapping = [{"from": {**s, "from": f"images.{s['from']}"}, "as": f"out_{i}"} for i, s in enumerate(sources)]
    return {"inputs": {"images": list(shape)}, "trunk": trunk, "mapping": mapping, **more}


def run(trunk: Any, shape: tuple[int, ...], *sources: dict[str, Any], batch: int = 2) -> tuple[list[Any], Any]:
    """Outputs of the compiled module, and the images."""
    images = torch.rand(batch, *shape)
    with torch.no_grad():
        return list(graphmodel.compile(spec(trunk, shape, *sources), seed=0, returns="tuple").eval()(images)), images


def library(trunk: Any) -> Any:
    torch.manual_seed(0)
    keywords = dict(trunk) if isinstance(trunk, dict) else {"name": trunk}
    return timm.create_model(keywords.pop("name").removeprefix("timm:"), **keywords).eval()


@pytest.mark.parametrize("norm", [None, False, True])
def test_tokens_as_a_map_are_timms_own_map(norm: bool | None) -> None:
    wanted = {"from": "block2", "layout": "nchw"} | ({} if norm is None else {"norm": norm})
    (found,), images = run(VIT, (3, 160, 160), wanted)
    with torch.no_grad():
        (expected,) = library(VIT).forward_intermediates(images, indices=[2], norm=bool(norm), intermediates_only=True)
    assert torch.equal(found, expected)


def test_tokens_are_chosen_by_name() -> None:
    sources = [{"from": "block1"}, *({"from": "block1", "tokens": t} for t in ("class", "patch", "mean", "all"))]
    (raw, first, patches, mean, everything), _ = run(REGISTERS, (3, 32, 32), *sources)
    assert raw.shape == (2, 1 + 3 + 4, 192)
    assert torch.equal(first, raw[:, 0])
    assert torch.equal(patches, raw[:, 4:])
    assert torch.equal(mean, raw[:, 4:].mean(1))
    assert torch.equal(everything, raw)


def test_the_class_token_of_the_normed_last_block_is_what_the_classifier_reads() -> None:
    (token, vector), _ = run(
        VIT, (3, 160, 160), {"from": "block5", "tokens": "class", "norm": True}, {"from": "pre_logits"}
    )
    assert torch.equal(token, vector)


def test_channels_last_maps_change_their_layout() -> None:
    sources = [{"from": "stage2"}, *({"from": "stage2", "layout": name} for name in ("nchw", "nhwc", "nlc"))]
    (raw, first, last, tokens), _ = run(SWIN, (3, 64, 64), *sources)
    assert raw.shape == (2, 8, 8, 192)
    assert torch.equal(first, raw.permute(0, 3, 1, 2))
    assert torch.equal(last, raw)
    assert torch.equal(tokens, raw.reshape(2, 64, 192))


def test_maps_change_their_layout_and_count_as_tokens() -> None:
    sources = [{"from": "res4"}, {"from": "res4", "layout": "nhwc"}, {"from": "res4", "layout": "nlc"}]
    sources += [{"from": "res4", "tokens": "patch"}, {"from": "res4", "tokens": "mean"}]
    (raw, last, tokens, patches, mean), _ = run("timm:test_resnet", (3, 96, 64), *sources)
    assert torch.equal(last, raw.permute(0, 2, 3, 1))
    assert torch.equal(tokens, raw.flatten(2).transpose(1, 2))
    assert torch.equal(patches, tokens)
    assert torch.allclose(mean, raw.mean((2, 3)), atol=1e-6)


def test_images_that_are_not_square_keep_rows_and_columns() -> None:
    trunk = {"name": "timm:test_vit", "img_size": [64, 96]}
    (found,), images = run(trunk, (3, 64, 96), {"from": "block0", "layout": "nchw"})
    with torch.no_grad():
        (expected,) = library(trunk).forward_intermediates(images, indices=[0], intermediates_only=True)
    assert found.shape == (2, 64, 4, 6)
    assert torch.equal(found, expected)


def test_each_resolution_is_laid_out_by_itself() -> None:
    views = {"crops": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"count": 3, "shape": [3, 32, 32]}]}}
    pooled = {"from": "crops.block1", "layout": "nchw", "pool": {"adaptive_avg_pool2d": 1}, "flatten": True}
    document = {
        "inputs": views,
        "trunk": VIT,
        "mapping": [
            {"from": {"from": "crops.block1", "tokens": "mean"}, "as": "mean"},
            {"from": pooled, "as": "pooled"},
        ],
    }
    model = graphmodel.compile(document, seed=0).eval()
    crops = [torch.rand(2, 3, 64, 64) for _ in range(2)] + [torch.rand(2, 3, 32, 32) for _ in range(3)]
    with torch.no_grad():
        out = model(crops)
    assert out["mean"].shape == (10, 64)
    assert torch.allclose(out["mean"], out["pooled"], atol=1e-5)


REFUSED = {
    "a map has no class token": ({"from": "stage2", "tokens": "class"}, SWIN, (3, 64, 64), "class token"),
    "a vector has no layout": ({"from": "pre_logits", "layout": "nchw"}, VIT, (3, 160, 160), "needs a map"),
    "a vector has no tokens": ({"from": "pre_logits", "tokens": "mean"}, VIT, (3, 160, 160), "needs a sequence"),
    "prefix tokens have no place in a map": (
        {"from": "block0", "tokens": "all", "layout": "nchw"}, VIT, (3, 160, 160), "no place in a map",
    ),
    "one token is no map": (
        {"from": "block0", "tokens": "class", "layout": "nchw"}, VIT, (3, 160, 160), "tokens: class",
    ),
    "only the last stage of a pyramid is normed": (
        {"from": "stage2", "norm": True}, SWIN, (3, 64, 64), "does not fit `stage2`",
    ),
    "a model may refuse norms": (
        {"from": "stage2", "norm": True}, {"name": "timm:hiera_tiny_224", "stages": [1, 1, 1, 1]}, (3, 224, 224),
        "does not normalise its stages",
    ),
    "logits have no norm to leave out": (
        {"from": "logits", "norm": False}, VIT, (3, 160, 160), "without the final norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_feature_cannot_be_had_as_is_one_diagnostic(why: str) -> None:
    source, trunk, shape, words = REFUSED[why]
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec(trunk, shape, source), device="meta")
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM306"
    assert words in finding.message
    assert finding.help


def test_registers_alone_are_no_class_token() -> None:
    trunk = {**REGISTERS, "class_token": False, "global_pool": "avg"}
    with pytest.raises(graphmodel.CompileError, match="without a class token"):
        graphmodel.compile(spec(trunk, (3, 32, 32), {"from": "block0", "tokens": "class"}), device="meta")


def test_pooling_tokens_offers_a_layout() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(
            spec(VIT, (3, 160, 160), {"from": "block0", "pool": {"adaptive_avg_pool2d": 2}}), device="meta"
        )
    assert "layout: nchw" in caught.value.diagnostics[0].help


def test_a_head_for_maps_on_tokens_is_offered_a_layout() -> None:
    @graphmodel.register_head("conv_head_for_this_test")
    class ConvHead(nn.Module):
        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    def document(**more: Any) -> dict[str, Any]:
        return {
            "inputs": {"images": [3, 160, 160]},
            "trunk": VIT,
            "heads": {"dense": "conv_head_for_this_test"},
            "mapping": [{"from": {"from": "images.block2", **more}, "head": "dense"}],
        }

    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document(), device="meta")
    assert "layout: nchw" in caught.value.diagnostics[0].help
    model = graphmodel.compile(document(layout="nchw"), seed=0)
    assert model(torch.rand(2, 3, 160, 160))["dense"].shape == (2, 4, 10, 10)


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((2, 96, 56, 56), (224, 224), FeatureLayout("nchw", grid=(56, 56))),
        ((2, 56, 56, 96), (224, 224), FeatureLayout("nhwc", grid=(56, 56))),
        ((2, 7, 14, 96), (112, 224), FeatureLayout("nhwc", grid=(7, 14))),
        ((2, 96, 7, 14), (112, 224), FeatureLayout("nchw", grid=(7, 14))),
        ((2, 196, 64), (224, 224), FeatureLayout("nlc", 0, (14, 14))),
        ((2, 197, 64), (224, 224), FeatureLayout("nlc", 1, (14, 14), class_token=True)),
        ((2, 32, 64), (64, 128), FeatureLayout("nlc", 0, (4, 8))),
        ((2, 17, 64), (224, 224), FeatureLayout("nlc", 1, (4, 4), class_token=True)),
        ((2, 64), (224, 224), FeatureLayout("nc")),
        ((2, 3, 4, 5, 6), (224, 224), FeatureLayout("other")),
    ],
)
def test_the_layout_of_an_unknown_feature_is_read_off_its_shape(
    shape: tuple[int, ...], image: tuple[int, int], expected: FeatureLayout
) -> None:
    assert infer_layout(torch.empty(shape, device="meta"), Feature("f", layout="other"), nn.Module(), image) == expected


# -- maps with channels last and what reads them --------------------------------------------------------------------


def read_by(head: Any, **edge: Any) -> dict[str, Any]:
    """A head on the second stage of a Swin, N×8×8×192."""
    mapping = [{"from": {"from": "images.stage2", **edge}, "head": "probe"}]
    return {"inputs": {"images": [3, 64, 64]}, "trunk": SWIN, "heads": {"probe": head}, "mapping": mapping}


PROBE = {"eval_mlp": {"dims": ["auto", 5]}}
POOLED = {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True}


@pytest.mark.parametrize("how", ["alone", "combined", "behind an identity"])
def test_a_probe_never_takes_rows_for_channels(how: str) -> None:
    document = read_by(["identity", PROBE] if how == "behind an identity" else PROBE)
    if how == "combined":
        document["mapping"][0]["from"] = ["images.stage2", "images.layers.1"]
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, device="meta")
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM304"
    assert "channels last" in finding.message
    assert "`layout: nchw`" in finding.help


def test_a_probe_refuses_channels_last_even_where_they_are_asked_for() -> None:
    with pytest.raises(graphmodel.CompileError, match="channels first") as caught:
        graphmodel.compile(read_by(PROBE, layout="nhwc"), device="meta")
    assert "`layout: nchw`" in caught.value.diagnostics[0].help


def test_pooling_never_takes_rows_for_channels() -> None:
    with pytest.raises(graphmodel.CompileError, match="channels last") as caught:
        graphmodel.compile(read_by({"mlp": {"dims": ["auto", 5]}}, **POOLED), device="meta")
    assert "`layout: nchw`" in caught.value.diagnostics[0].help


@pytest.mark.slow
def test_channels_first_are_what_probes_and_pooling_read() -> None:
    model = graphmodel.compile(read_by(PROBE, layout="nchw"), seed=0)
    assert model.heads.probe.channel_bn.num_features == 192
    model = graphmodel.compile(read_by({"mlp": {"dims": ["auto", 5]}}, layout="nchw", **POOLED), seed=0).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        (stage,) = library(SWIN).forward_intermediates(images, indices=[1], intermediates_only=True)
        assert torch.allclose(model(images)["probe"], model.heads.probe(stage.mean((2, 3))), atol=1e-6)


def test_identity_returns_a_map_as_it_is() -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = graphmodel.compile(read_by("identity"), seed=0).eval()(images)["probe"]
        (stage,) = library(SWIN).forward_intermediates(images, indices=[1], intermediates_only=True, output_fmt="NCHW")
    assert torch.equal(found.permute(0, 3, 1, 2), stage)


def test_a_head_of_the_users_own_reads_channels_last_where_it_says_so() -> None:
    @graphmodel.register_head("channels_last_head_for_this_test")
    class Pointwise(nn.Module):
        def __init__(self, in_features: int, width: int = 3) -> None:
            super().__init__()
            self.linear = nn.Linear(in_features, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    head = "channels_last_head_for_this_test"
    with pytest.raises(graphmodel.CompileError, match="channels last"):
        graphmodel.compile(read_by(head), device="meta")
    model = graphmodel.compile(read_by(head, layout="nhwc"), device="meta")
    assert model.heads.probe.linear.in_features == 192


def test_a_probe_on_tokens_is_offered_a_map() -> None:
    document = {
        "inputs": {"images": [3, 160, 160]},
        "trunk": VIT,
        "heads": {"probe": PROBE},
        "mapping": [{"from": "images.block2", "head": "probe"}],
    }
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, device="meta")
    assert "`layout: nchw`" in caught.value.diagnostics[0].help


DROPPING = {
    "name": "timm:vit_tiny_patch16_224",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "patch_drop_rate": 0.25,
}


@pytest.mark.parametrize(
    "source",
    [
        {"from": "images.blocks.0"},
        {"from": "images.block0", "tokens": "mean"},
        {"from": "images.features", "layout": "nchw"},
        {"from": "images.blocks.0.mlp", "layout": "nhwc"},
    ],
)
def test_tokens_that_are_dropped_in_training_leave_no_map(source: dict[str, Any]) -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": DROPPING, "mapping": [{**source, "as": "out"}]}
    with pytest.raises(graphmodel.CompileError, match="patch_drop_rate") as caught:
        graphmodel.compile(spec, device="meta")
    assert "in training mode" in str(caught.value)


def test_sequences_may_be_shorter_in_training() -> None:
    mapping = [{"from": "images.features", "as": "all"}, {"from": "images.features", "tokens": "mean", "as": "mean"}]
    model = graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunk": DROPPING, "mapping": mapping}, seed=0)
    theirs = timm.create_model(
        **{"model_name": "vit_tiny_patch16_224", **{k: v for k, v in DROPPING.items() if k != "name"}}
    )
    theirs.load_state_dict(model.trunk.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    for mode in (False, True):
        torch.manual_seed(0)
        found = model.train(mode)(x)
        torch.manual_seed(0)
        wanted = theirs.train(mode).forward_features(x)
        assert wanted.shape[1] == (13 if mode else 17)
        assert torch.equal(found["all"], wanted)
        assert torch.equal(found["mean"], wanted[:, 1:].mean(1))
