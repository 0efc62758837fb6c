"""`timm:NAME` against timm itself: weights, names, features, published weights from files, input sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import graphmodel
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import describe_trunk, params_of


def compiled(trunk: Any, *features: str, shape: tuple[int, ...] = (3, 64, 64), **options: Any) -> Any:
    document = {
        "inputs": {"images": list(shape)},
        "trunk": trunk,
        "mapping": [{"from": f"images.{f}", "as": f.replace(".", "_")} for f in features],
    }
    return graphmodel.compile(document, **{"seed": 0, **options})


def refused(trunk: Any, *features: str, shape: tuple[int, ...] = (3, 64, 64)) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        compiled(trunk, *(features or ("pre_logits",)), shape=shape)
    (finding,) = caught.value.diagnostics
    return finding


def test_weights_are_what_timms_constructor_gives_under_the_seed() -> None:
    model = compiled("timm:test_resnet", "logits", seed=7)
    torch.manual_seed(7)
    own = timm.create_model("test_resnet").state_dict()
    assert list(model.state_dict()) == [f"trunk.{k}" for k in own]
    assert all(torch.equal(v, own[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())


def test_stages_behind_the_last_feature_leave_no_parameters() -> None:
    model = compiled("timm:test_resnet", "res3")
    children = {k.split(".")[1] for k in model.state_dict()}
    assert children == {"conv1", "bn1", "layer1", "layer2"}


def test_any_keyword_argument_goes_to_timm() -> None:
    trunk = {
        "name": "timm:test_vit",
        "num_classes": 7,
        "act_layer": "relu",
        "drop_path_rate": 0.1,
        "img_size": [64, 96],
    }
    model = compiled(trunk, "logits", shape=(3, 64, 96)).eval()
    torch.manual_seed(0)
    own = timm.create_model("test_vit", num_classes=7, act_layer="relu", drop_path_rate=0.1, img_size=(64, 96)).eval()
    x = torch.rand(2, 3, 64, 96)
    assert torch.equal(model(x)["logits"], own(x))


def test_pooled_vector_and_logits_are_timms() -> None:
    model = compiled("timm:test_convnext", "flatten", "output", "features").eval()
    torch.manual_seed(0)
    own = timm.create_model("test_convnext").eval()
    x = torch.rand(2, 3, 64, 64)
    out = model(x)
    assert torch.equal(out["features"], own.forward_features(x))
    assert torch.equal(out["flatten"], own.forward_head(own.forward_features(x), pre_logits=True))
    assert torch.equal(out["output"], own(x))


def test_the_default_feature_is_the_pooled_vector() -> None:
    document = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": "timm:test_resnet",
        "heads": {"h": {"mlp": {"dims": ["auto", 3]}}},
    }
    model = graphmodel.compile(document, device="meta")
    assert model.heads.h.state_dict()["clf.0.weight"].shape[1] == timm.create_model("test_resnet").num_features


@pytest.mark.parametrize(
    ("name", "names", "aliases"),
    [
        ("test_resnet", ["stem", "stage1", "stage2", "stage3", "stage4"], ["res2", "res3", "res4", "res5"]),
        ("test_efficientnet", ["stage1", "stage2", "stage3", "stage4", "stage5"], ["res2", "res3", "res4", "res5"]),
        ("levit_128s", ["stage1", "stage2", "stage3"], ["res4", "res5"]),
        ("test_vit", [f"block{i}" for i in range(6)], []),
    ],
)
def test_names_are_the_same_for_all_families(name: str, names: list[str], aliases: list[str]) -> None:
    rows = describe_trunk(f"timm:{name}")
    assert [r.name for r in rows] == [*names, "features", "pre_logits", "logits"]
    assert [a for r in rows for a in r.aliases if a.startswith("res")] == aliases
    for row, published in zip(rows, timm.create_model(name).feature_info, strict=False):
        assert row.channels == published["num_chs"]
        assert published["module"] in row.aliases
        assert not row.disagrees


def test_res_aliases_stand_for_strides() -> None:
    for name in ("test_resnet", "test_convnext", "test_efficientnet", "regnetx_002", "swin_tiny_patch4_window7_224"):
        strides = {
            a: r.stride
            for r in describe_trunk(f"timm:{name}")
            for a in r.aliases
            if a in ("res2", "res3", "res4", "res5")
        }
        assert strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}, name


def test_what_timm_publishes_and_running_gives_otherwise_is_said() -> None:
    stem = describe_trunk("timm:tresnet_m")[0]
    assert stem.stride == 4
    assert stem.disagrees == ("stride 2 published",)


def test_features_that_are_no_modules_open() -> None:
    rows = {r.name: r for r in describe_trunk("timm:twins_svt_small")}
    assert [rows[f"stage{i}"].module for i in (1, 2)] == ["blocks.0.1", "blocks.1.1"]
    rows = {r.name: r for r in describe_trunk("timm:mvitv2_tiny")}
    assert rows["stage1"].module == "stages.0[0]"


def test_a_name_with_a_weights_tag_is_the_same_model() -> None:
    assert find_trunk("timm:resnet18.a1_in1k") is not None
    assert find_trunk("timm:resnet18x") is None


def test_an_unknown_model_names_the_nearest() -> None:
    finding = refused("timm:convnext_tinny")
    assert finding.code == "GM205"
    assert "`timm:convnext_tiny`" in finding.help


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("dynamic_image_size", "did you mean `dynamic_img_size`?"),
        ("features_only", "every stage is a feature by name"),
        ("num_clases", "did you mean `num_classes`?"),
    ],
)
def test_a_keyword_that_timm_does_not_take_is_one_diagnostic(keyword: str, words: str) -> None:
    finding = refused({"name": "timm:test_vit", keyword: True}, shape=(3, 160, 160))
    assert finding.code == "GM201"
    assert keyword in finding.message
    assert words in finding.help


def test_timm_alone_is_no_model() -> None:
    assert "does not name a model" in refused("timm").message


def test_augmentation_inside_a_trunk_acts_in_training_alone() -> None:
    small = {"depth": 1, "num_kv_heads": 6, "img_size": 64}
    trunk = {"name": "timm:vit_base_patch16_sapiens2", **small}
    model = compiled(trunk, "block0", "logits")
    own = timm.create_model("vit_base_patch16_sapiens2", **small)
    own.load_state_dict({k.removeprefix("trunk."): v for k, v in model.state_dict().items()})
    x = torch.rand(2, 3, 64, 64)
    results = []
    for training in (True, False):
        torch.manual_seed(3)
        expected = own.train(training)(x)
        torch.manual_seed(3)
        results.append(model.train(training)(x)["logits"])
        assert torch.equal(results[-1], expected)
    assert not torch.equal(*results)


# -- input sizes ------------------------------------------------------------------------------------------------------


def test_another_size_names_the_options() -> None:
    finding = refused("timm:vit_tiny_patch16_224", shape=(3, 96, 96))
    assert finding.code == "GM305"
    assert "`img_size: 96`" in finding.help
    assert "`dynamic_img_size: true`" in finding.help


def test_another_number_of_channels_names_the_option() -> None:
    assert "`in_chans: 4`" in refused("timm:test_resnet", shape=(4, 160, 160)).help


def test_a_feature_of_several_values_has_nothing_to_do_with_the_size() -> None:
    lstm = "stages.0.blocks.0.rnn_tokens.rnn_h"
    finding = refused({"name": "timm:sequencer2d_s", "layers": [1, 1, 1, 1]}, lstm)
    assert f"`{lstm}.0`" in finding.help
    assert "img_size" not in finding.help


def crops(trunk: Any) -> dict[str, Any]:
    views = [{"count": 2, "shape": [3, 64, 64]}, {"count": 2, "shape": [3, 32, 32]}]
    return {"inputs": {"crops": {"views": views}}, "trunk": trunk}


def test_several_resolutions_set_the_dynamic_image_size() -> None:
    trunk = {"name": "timm:vit_tiny_patch16_224", "depth": 2, "img_size": 64}
    model = graphmodel.compile(crops(trunk), seed=0).eval()
    torch.manual_seed(0)
    own = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, dynamic_img_size=True).eval()
    images = [torch.rand(3, 3, size, size) for size in (64, 64, 32, 32)]
    with torch.no_grad():
        (found,) = model(images).values()
        expected = torch.cat([own.forward_head(own.forward_features(x), pre_logits=True) for x in images])
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_explicit_fixed_size_is_kept() -> None:
    family = find_trunk("timm:vit_tiny_patch16_224")
    assert family is not None
    shapes = [(3, 64, 64), (3, 32, 32)]
    fixed = params_of("timm:vit_tiny_patch16_224", dynamic_img_size=False)
    assert family.for_resolutions(fixed, shapes) == fixed
    free = family.for_resolutions(params_of("timm:vit_tiny_patch16_224"), shapes)
    assert free.keywords() == {"dynamic_img_size": True}
    assert family.for_resolutions(params_of("timm:vit_tiny_patch16_224"), shapes[:1]).keywords() == {}


def test_a_trunk_without_dynamic_size_says_what_there_is() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(crops({"name": "timm:cait_xxs24_224", "depth": 1, "img_size": 64}), device="meta")
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM305"
    assert "img_size" in finding.help


def test_luminance_takes_one_channel() -> None:
    model = compiled({"name": "timm:test_resnet", "input_type": "lab"}, "pre_logits")
    assert model.trunk.conv1[0].weight.shape[1] == 1


# -- weights of files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def source() -> Any:
    torch.manual_seed(11)
    return timm.create_model("test_resnet", num_classes=7)


def same(model: Any, source: Any) -> bool:
    own = source.state_dict()
    return all(torch.equal(v, own[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_goes_through_timms_loader(source: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save_file(source.state_dict(), path)
    model = compiled({"name": "timm:test_resnet", "num_classes": 7, "pretrained": str(path)}, "logits", seed=0)
    assert same(model, source)


def test_an_overlay_of_the_published_configuration_is_honoured(source: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    overlay = {"file": str(path), "num_classes": 7}
    trunk = {
        "name": "timm:test_resnet",
        "pretrained": True,
        "in_chans": 1,
        "num_classes": 3,
        "pretrained_cfg_overlay": overlay,
    }
    model = compiled(trunk, "logits", shape=(1, 64, 64))
    # timm sums the first layer over its channels and leaves a classifier of other classes as it was made.
    expected = source.state_dict()["conv1.0.weight"].sum(1, keepdim=True)
    assert torch.allclose(model.state_dict()["trunk.conv1.0.weight"], expected, atol=1e-6)
    assert model.state_dict()["trunk.fc.weight"].shape == (3, source.num_features)
    assert torch.equal(model.state_dict()["trunk.layer4.0.conv1.weight"], source.state_dict()["layer4.0.conv1.weight"])


def test_a_file_that_is_not_there_is_found_before_anything_is_built(tmp_path: Path) -> None:
    finding = refused({"name": "timm:test_resnet", "pretrained": str(tmp_path / "none.pth")})
    assert finding.code == "GM510"
    assert "no such file" in finding.message


def test_a_file_of_another_model_is_one_diagnostic(source: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    finding = refused({"name": "timm:test_vit", "pretrained": str(path)}, shape=(3, 160, 160))
    assert finding.code == "GM510"
    assert "Missing key" in finding.message


def test_no_weights_are_read_on_meta(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("nothing that can be read")
    trunk = {"name": "timm:test_resnet", "num_classes": 7, "pretrained": str(path)}
    model = compiled(trunk, "logits", device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.trunk.fc.out_features == 7


def test_a_checkpoint_path_is_loaded_after_the_model_is_made_and_not_on_meta(
    source: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    trunk = {"name": "timm:test_resnet", "num_classes": 7, "checkpoint_path": str(path)}
    assert same(compiled(trunk, "logits"), source)
    assert not [w for w in recwarn if "no-op" in str(w.message)]


def test_modules_of_the_head_are_features_beside_the_pooled_vector() -> None:
    model = compiled({"name": "timm:test_resnet"}, "global_pool.flatten", "flatten", "output").eval()
    x = torch.randn(2, 3, 160, 160)
    own = timm.create_model("test_resnet").eval()
    own.load_state_dict({k.removeprefix("trunk."): v for k, v in model.state_dict().items()})
    with torch.no_grad():
        pooled, vector, logits = list(model(x).values())
        expected = own.forward_head(own.forward_features(x), pre_logits=True)
        assert torch.equal(pooled, expected)
        assert torch.equal(vector, expected)
        assert torch.equal(logits, own(x))


@pytest.mark.parametrize("name", ["timm:convnext_atto", "timm:regnety_002"])
def test_the_pooled_vector_leaves_out_the_classifier(name: str) -> None:
    """DDP fails on parameters that get no gradient."""
    model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": name}, device="meta")
    model(torch.empty(2, 3, 64, 64, device="meta"))["features"].sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
