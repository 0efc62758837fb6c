from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphmodel import CompileError, load_spec
from graphmodel.spec.model import ModelSpec


def model(**changes: Any) -> dict[str, Any]:
    """A MODEL block with a ResNet-18."""
    return {"MODEL": {"TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}}, **changes}}


def mlp(width: int = 4) -> list[Any]:
    return ["mlp", {"dims": [512, width]}]


def extractor(*features: str, **more: Any) -> dict[str, Any]:
    return {
        "EVAL_MODE_ON": True,
        "FREEZE_TRUNK_ONLY": True,
        "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [[f, ["Identity", []]] for f in features],
        **more,
    }


def wired(spec: ModelSpec) -> list[tuple[str, str | None, str | None]]:
    return [(e.sources[0].input, e.sources[0].feature, e.head) for e in spec.edges]


def refused(source: Any, code: str) -> str:
    with pytest.raises(CompileError) as caught:
        load_spec(source)
    assert code in [d.code for d in caught.value.diagnostics], str(caught.value)
    return str(caught.value)


def test_a_flat_list_on_one_feature_is_a_chain() -> None:
    spec = load_spec(
        model(HEAD={"PARAMS": [mlp(512), ["siamese_concat_view", {"num_towers": 2}], ["mlp", {"dims": [1024, 3]}]]})
    )
    assert [c.name for c in spec.heads["head"].chain] == ["mlp", "siamese_concat_view", "mlp"]
    assert wired(spec) == [("images", None, "head")]


def test_nested_lists_are_heads_with_outputs_of_their_own() -> None:
    spec = load_spec(model(HEAD={"PARAMS": [[mlp()], [mlp(8), ["mlp", {"dims": [8, 3]}]]]}))
    assert wired(spec) == [("images", None, "head0"), ("images", None, "head1")]
    assert len(spec.heads["head1"].chain) == 2
    assert any("chains them" in n.message for n in spec.notes)


def test_as_many_heads_as_features_pair_up_in_the_order_written() -> None:
    spec = load_spec(
        model(FEATURE_EVAL_SETTINGS=extractor("res5avg", "flatten", "res5avg"), HEAD={"PARAMS": [mlp()] * 3})
    )
    assert wired(spec) == [
        ("images", "res5avg", "head0"),
        ("images", "flatten", "head1"),
        ("images", "res5avg", "head2"),
    ]
    assert spec.freeze == ("trunk",)


def test_the_feature_map_counts_only_for_a_frozen_trunk_in_eval_mode() -> None:
    settings = extractor("res4", "res5avg", FREEZE_TRUNK_ONLY=False)
    spec = load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()]}))
    assert wired(spec) == [("images", None, "head")]
    assert spec.freeze == ()


def test_heads_against_features_names_both_counts() -> None:
    text = refused(model(FEATURE_EVAL_SETTINGS=extractor("res4", "res5"), HEAD={"PARAMS": [mlp()] * 3}), "GM225")
    assert "3 heads" in text
    assert "2 features" in text


@pytest.mark.parametrize("pool", [["Identty", []], "AvgPool2d", ["AvgPool2d", [1] * 9]])
def test_a_wrong_pooling_operation_is_one_mistake(pool: Any) -> None:
    settings = extractor("res3", "res4", "res5")
    settings["LINEAR_EVAL_FEAT_POOL_OPS_MAP"][1][1] = pool
    with pytest.raises(CompileError) as caught:
        load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()] * 3}))
    assert [d.code for d in caught.value.diagnostics] == ["GM224"]


@pytest.mark.parametrize("change", [{"EXTRACT_TRUNK_FEATURES_ONLY": "Treu"}, {"EXTRACT_TRUNK_FEATURE_ONLY": True}])
def test_a_misspelled_setting_is_no_wrong_count_of_heads(change: dict[str, Any]) -> None:
    settings = extractor("res3", "res4", "res5", **change)
    with pytest.raises(CompileError) as caught:
        load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()] * 2}))
    assert len(caught.value.diagnostics) == 1


def test_features_alone_need_no_head() -> None:
    settings = extractor("res4", "res5avg", EXTRACT_TRUNK_FEATURES_ONLY=True, SHOULD_FLATTEN_FEATS=False)
    spec = load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()]}))
    assert wired(spec) == [("images", "res4", None), ("images", "res5avg", None)]
    assert list(spec.outputs) == ["res4", "res5avg"]


@pytest.mark.parametrize("flatten", [True, False])
def test_pooling_keeps_its_positional_arguments(flatten: bool) -> None:
    settings = extractor(SHOULD_FLATTEN_FEATS=flatten)
    settings["LINEAR_EVAL_FEAT_POOL_OPS_MAP"] = [
        ["res4", ["AvgPool2d", [[6, 6], 1, 0]]], ["res5", ["AdaptiveMaxPool2d", [[2, 2]]]], ["res3", ["MaxPool2d", [3, 2]]],
    ]  # fmt: skip
    spec = load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()] * 3}))
    pools = [e.sources[0].pool for e in spec.edges]
    assert [(p.op, p.params) for p in pools if p] == [
        ("avg_pool2d", {"kernel_size": (6, 6), "stride": 1, "padding": 0}),
        ("adaptive_max_pool2d", {"output_size": (2, 2)}),
        ("max_pool2d", {"kernel_size": 3, "stride": 2}),
    ]
    assert all(e.sources[0].flatten is flatten for e in spec.edges)


def test_the_documented_mapping_pairs_heads_with_features_in_order() -> None:
    spec = load_spec(
        model(
            MULTI_INPUT_HEAD_MAPPING=[["images", ["res5", "res4"]], ["patches", ["res3"]]], HEAD={"PARAMS": [mlp()] * 3}
        )
    )
    assert wired(spec) == [("images", "res5", "head0"), ("images", "res4", "head1"), ("patches", "res3", "head2")]
    assert spec.outputs == (("head0", "head1"), "head2")


def test_the_last_head_serves_the_rest_of_the_inputs() -> None:
    entries = [["a", ["flatten"]], ["b", ["flatten"]], ["c", ["flatten"]]]
    spec = load_spec(model(MULTI_INPUT_HEAD_MAPPING=entries, HEAD={"PARAMS": [[mlp()], [mlp()]]}))
    assert [e.head for e in spec.edges] == ["head0", "head1", "head1"]
    assert list(spec.outputs) == ["head0", "head1_b", "head1_c"]


def test_the_dict_form_names_heads_and_companions() -> None:
    entries = [
        ["views", {"feat_names": ["flatten"], "head_index": 1, "additional_keys": ["mask"]}],
        ["crops", {"feat_names": ["flatten"], "head_index": 0}],
    ]
    spec = load_spec(model(MULTI_INPUT_HEAD_MAPPING=entries, HEAD={"PARAMS": [[mlp()], [mlp()]]}))
    assert wired(spec) == [("views", "flatten", "head1"), ("crops", "flatten", "head0")]
    assert spec.inputs["views"].companions == ("mask",)
    assert (spec.inputs["mask"].dtype, spec.inputs["mask"].shape) == ("bool", (14, 14))


def test_a_head_index_that_is_not_there_is_an_error() -> None:
    entry = ["images", {"feat_names": ["flatten"], "head_index": 3}]
    assert "head 3 does not exist" in refused(
        model(MULTI_INPUT_HEAD_MAPPING=[entry], HEAD={"PARAMS": [mlp()]}), "GM225"
    )


def test_head_wide_settings_reach_every_head_that_has_them() -> None:
    head = {"PARAMS": [mlp()], "BATCHNORM_EPS": 1e-3, "BATCHNORM_MOMENTUM": 0.3, "PARAMS_MULTIPLIER": 2.0}
    assert load_spec(model(HEAD=head)).head_defaults == {"bn_eps": 1e-3, "bn_momentum": 0.3, "init_scale": 2.0}


@pytest.mark.parametrize(
    ("settings", "freeze"),
    [
        ({"EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True}, ("trunk",)),
        ({"EVAL_MODE_ON": True, "FREEZE_TRUNK_AND_HEAD": True}, ("trunk", "heads")),
        ({"EVAL_MODE_ON": False, "FREEZE_TRUNK_ONLY": True}, ()),
        ({}, ()),
    ],
)
def test_freezing(settings: dict[str, Any], freeze: tuple[str, ...]) -> None:
    assert load_spec(model(FEATURE_EVAL_SETTINGS=settings, HEAD={"PARAMS": [mlp()]})).freeze == freeze


def test_multi_crop_comes_from_the_transforms_or_the_caller() -> None:
    crop = {"name": "ImgPilToMultiCrop", "size_crops": [224, 96], "num_crops": [2, 3]}
    config = {"config": {**model(HEAD={"PARAMS": [mlp()]}), "DATA": {"TRAIN": {"TRANSFORMS": [crop]}}}}
    assert load_spec(config).inputs["images"].views == ((3, 224, 224),) * 2 + ((3, 96, 96),) * 3
    assert load_spec(config, inputs={"images": (3, 64, 64)}).inputs["images"].shape == (3, 64, 64)
    given = load_spec(model(HEAD={"PARAMS": [mlp()]}), inputs={"images": [(3, 8, 8), (3, 4, 4)]})
    assert given.inputs["images"].views == ((3, 8, 8), (3, 4, 4))


@pytest.mark.parametrize(
    ("transforms", "shape"),
    [
        ([{"name": "RandomResizedCrop", "size": 160}], (3, 160, 160)),
        ([{"name": "CenterCrop", "size": [120, 200]}], (3, 120, 200)),
        (
            [
                {"name": "RandomCrop", "size": 255},
                {"name": "ImgPatchesFromTensor", "num_patches": 9, "patch_jitter": 21},
            ],
            (3, 64, 64),
        ),
        ([{"name": "ToTensor"}], (3, 224, 224)),
    ],
)
def test_single_shapes_come_from_the_transforms(transforms: list[Any], shape: tuple[int, ...]) -> None:
    config = {"config": {**model(HEAD={"PARAMS": [mlp()]}), "DATA": {"TRAIN": {"TRANSFORMS": transforms}}}}
    assert load_spec(config).inputs["images"].shape == shape


def test_pirl_reads_images_and_patches_from_its_transform() -> None:
    transform = {"name": "ImgPilToPatchesAndImage", "crop_size_image": 224, "crop_size_patches": 255, "num_patches": 9}
    mapping = [["patches", ["flatten"]], ["images", ["flatten"]]]
    config = {
        "config": {
            **model(HEAD={"PARAMS": [[mlp()], [mlp()]]}, MULTI_INPUT_HEAD_MAPPING=mapping),
            "DATA": {"TRAIN": {"TRANSFORMS": [transform]}},
        }
    }
    inputs = load_spec(config).inputs
    assert {n: i.shape for n, i in inputs.items()} == {"patches": (3, 64, 64), "images": (3, 224, 224)}


def test_a_shape_for_an_unknown_input_is_an_error() -> None:
    with pytest.raises(CompileError, match="not an input of this model"):
        load_spec(model(HEAD={"PARAMS": [mlp()]}), inputs={"image": (3, 8, 8)})


def test_what_is_the_trainers_is_carried_and_said() -> None:
    spec = load_spec(model(HEAD={"PARAMS": [mlp()]}, AMP_PARAMS={"USE_AMP": True}, FSDP_CONFIG={"anything": 1}))
    carried = [n.message for n in spec.notes if n.code == "GM230"]
    assert any("AMP_PARAMS" in m for m in carried)
    assert any("FSDP_CONFIG" in m for m in carried)
    assert not any("GRAD_CLIP" in m for m in carried)


def test_what_vissl_itself_ignores_is_a_warning() -> None:
    block = model(HEAD={"PARAMS": [mlp()]}, WEIGHTS_INIT={"PARAM_FILE": "x"})
    block["MODEL"]["TRUNK"]["TRUNK_PARAMS"] = {"RESNETS": {"DEPTH": 50}}
    assert {n.code for n in load_spec(block).notes if n.severity == "warning"} == {"GM231"}


def test_a_feature_map_of_a_trunk_that_is_not_frozen_is_a_warning() -> None:
    settings = {"LINEAR_EVAL_FEAT_POOL_OPS_MAP": [["res4", ["AvgPool2d", [[6, 6], 1, 0]]]], "FREEZE_TRUNK_ONLY": True}
    for on, texts in ((False, ["FREEZE_TRUNK_ONLY", "LINEAR_EVAL"]), (True, [])):
        spec = load_spec(model(HEAD={"PARAMS": [mlp()]}, FEATURE_EVAL_SETTINGS={**settings, "EVAL_MODE_ON": on}))
        found = [n.message for n in spec.notes if n.severity == "warning"]
        assert len(found) == len(texts)
        assert all(text in message for text, message in zip(texts, found, strict=True))


def test_a_block_of_another_trunk_is_noted() -> None:
    block = model(HEAD={"PARAMS": [mlp()]})
    block["MODEL"]["TRUNK"]["REGNET"] = {"depth": 3}
    assert any("REGNET is not used" in n.message for n in load_spec(block).notes)


@pytest.mark.parametrize(
    ("block", "code", "near"),
    [
        ({"TRNUK": {}}, "GM201", "TRUNK"),
        ({"TRUNK": {"RESNETS": {"DEPHT": 50}}}, "GM201", "DEPTH"),
        ({"FEATURE_EVAL_SETTINGS": {"EVAL_MODE": True}}, "GM201", "EVAL_MODE_ON"),
        ({"HEAD": {"PARAMS": ["mlp"]}}, "GM223", "dims"),
        ({"HEAD": {"PARAMS": [["", {}]]}}, "GM223", "not a valid head"),
        ({"HEAD": {"PARAMS": [["mlp", [1, 2]]]}}, "GM223", "mapping"),
        ({"HEAD": {"PARAMS": []}}, "GM222", "overlay"),
        ({"INPUT_TYPE": "rbg"}, "GM202", "rgb"),
        ({"MULTI_INPUT_HEAD_MAPPING": [["images"]]}, "GM226", "feat_names"),
        ({"MULTI_INPUT_HEAD_MAPPING": [["images", {"feats": []}]]}, "GM226", "feat_names"),
    ],
)
def test_mistakes_are_diagnosed(block: dict[str, Any], code: str, near: str) -> None:
    assert near in refused({"MODEL": {"HEAD": {"PARAMS": [mlp()]}, **block}}, code)


def test_files_of_other_projects_are_told_apart(tmp_path: Path) -> None:
    detectron = tmp_path / "detectron.yaml"
    detectron.write_text("_BASE_: x.yaml\nMODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n")
    assert "Detectron2" in refused(detectron, "GM221")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("config:\n  OPTIMIZER: {num_epochs: 3}\n")
    assert "overlay" in refused(overlay, "GM220")


def test_errors_point_into_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        'config:\n  MODEL:\n    HEAD:\n      PARAMS: [\n        ["mlp", {"dims": [512, 4]}],\n        ["mlp"],\n        3,\n      ]\n'
    )
    with pytest.raises(CompileError) as caught:
        load_spec(path)
    assert [(d.span.line, d.span.column) for d in caught.value.diagnostics if d.span] == [(7, 9)]


def test_overlays_merge_over_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "config: {MODEL: {TRUNK: {RESNETS: {DEPTH: 50}}, HEAD: {PARAMS: [[mlp, {dims: [2048, 8]}]]}}}"
    )
    (tmp_path / "over.yaml").write_text(
        "# @package _global_\nconfig: {MODEL: {TRUNK: {RESNETS: {DEPTH: 18}}, HEAD: {PARAMS: [[mlp, {dims: [512, 8]}]]}}}"
    )
    spec = load_spec([tmp_path / "base.yaml", tmp_path / "over.yaml"], ["config.MODEL.HEAD.BATCHNORM_EPS=1e-3"])
    assert spec.trunks["trunk"].params == {"depth": 18}
    assert spec.head_defaults == {"bn_eps": 1e-3}
