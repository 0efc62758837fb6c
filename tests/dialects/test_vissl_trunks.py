"""What VISSL's TRUNK blocks become: keys that its code does not read, features that it does not tell apart."""

from __future__ import annotations

from typing import Any

import pytest

import graphmodel


def load(trunk: dict[str, Any], **model: Any) -> graphmodel.ModelSpec:
    return graphmodel.load_spec({"MODEL": {"TRUNK": trunk, "HEAD": {"PARAMS": [["mlp", {"dims": [8, 2]}]]}, **model}})


def params(trunk: dict[str, Any]) -> dict[str, Any]:
    return load(trunk).trunks["trunk"].params


def features(name: str, *wanted: str) -> tuple[graphmodel.ModelSpec, list[str | None]]:
    pools = [[w, ["Identity", []]] for w in wanted]
    settings = {
        "EVAL_MODE_ON": True,
        "FREEZE_TRUNK_ONLY": True,
        "EXTRACT_TRUNK_FEATURES_ONLY": True,
        "LINEAR_EVAL_FEAT_POOL_OPS_MAP": pools,
    }
    spec = load({"NAME": name}, FEATURE_EVAL_SETTINGS=settings)
    return spec, [edge.sources[0].feature for edge in spec.edges]


NUMBERS = {"depth": 27, "w_0": 640, "w_a": 230.83, "w_m": 2.53, "group_width": 373}


def test_a_named_regnet_leaves_numbers_of_a_base_file_unread() -> None:
    trunk = {"NAME": "regnet", "REGNET": {**NUMBERS, "name": "regnet_y_16gf", "use_se": False}}
    assert params(trunk) == {"variant": "regnet_y_16gf"}
    unread = [note for note in load(trunk).notes if "w_0" in f"{note.message} {note.path}"]
    assert unread


def test_an_anynet_leaves_the_five_numbers_unread_and_numbers_leave_the_lists() -> None:
    lists = {"depths": [1], "widths": [8], "group_widths": [8], "bottleneck_multipliers": [1.0], "strides": [2]}
    both = {**NUMBERS, **lists, "stem_width": 16}
    assert params({"NAME": "regnet", "REGNET": {**both, "name": "anynet"}}) == {
        "variant": "anynet",
        "stem_width": 16,
        **lists,
    }
    assert params({"NAME": "regnet_fsdp", "REGNET": both}) == {**NUMBERS, "stem_width": 16}


@pytest.mark.parametrize(
    ("trunk", "wrong", "right"),
    [
        ({"NAME": "regnet", "REGNET": {"nae": "regnet_y_16gf"}}, "nae", "name"),
        ({"NAME": "regnet", "REGNET": {**{k: v for k, v in NUMBERS.items() if k != "w_a"}, "wa_": 1.0}}, "wa_", "w_a"),
        ({"NAME": "mobilenetv3_tv", "MOBILE_NET": {"anme": "mobilenetv3_large_100"}}, "anme", "NAME"),
    ],
)
def test_one_slip_in_a_short_key_is_an_error(trunk: dict[str, Any], wrong: str, right: str) -> None:
    spec = {"MODEL": {"TRUNK": trunk, "HEAD": {"PARAMS": [["mlp", {"dims": [8, 2]}]]}}}
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.build_graph(graphmodel.load_spec(spec, inputs={"images": (3, 64, 64)}))
    found = [d for d in caught.value.diagnostics if d.code == "GM201"]
    assert [f"unknown key `{wrong}`" in d.message and f"did you mean `{right}`?" in d.help for d in found] == [True]


@pytest.mark.parametrize("trunk", ["resnet", ["resnet"], 3, 2.5])
def test_a_trunk_that_is_not_a_mapping_is_one_error(trunk: Any) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.load_spec({"MODEL": {"TRUNK": trunk, "HEAD": {"PARAMS": [["mlp", {"dims": [8, 2]}]]}}})
    assert [d.path for d in caught.value.diagnostics if d.severity == "error"] == ["MODEL.TRUNK"]


@pytest.mark.parametrize(("name", "kept"), [("mobilenetv3_tv", "timm_bn"), ("mobilenetv3_timm", "trunk_only")])
def test_each_mobilenet_reads_its_own_switch(name: str, kept: str) -> None:
    block = {"NAME": "mobilenetv3_large_100", "TIMM_BN": True, "TRUNK_ONLY": False}
    assert params({"NAME": name, "MOBILE_NET": block}) == {
        "variant": "mobilenetv3_large_100",
        kept: kept == "timm_bn",
    }


@pytest.mark.parametrize("name", ["resnet_sk", "convnext", "swin_transformer"])
def test_trunks_with_one_result_give_it_for_every_name_and_say_so(name: str) -> None:
    spec, found = features(name, "res5")
    assert found == [None]
    assert any("pooled vector" in note.message for note in spec.notes)


def test_a_feature_called_trunk_is_no_trunk() -> None:
    spec, found = features("mobilenetv3_tv", "trunk", "trunk_pool")
    assert found == ["trunk", "trunk_pool"]
    assert [edge.output for edge in spec.edges] == ["trunk_output", "trunk_pool"]


@pytest.mark.parametrize(
    ("name", "block", "key"),
    [
        ("convit", "CONVIT", "QKV_BIAS"),
        ("vision_transformer", "VISION_TRANSFORMERS", "HYBRID"),
        ("resnet", "XCIT", "POOL"),
    ],
)
def test_a_key_of_a_block_that_vissl_never_reads_is_a_warning_at_its_line(name: str, block: str, key: str) -> None:
    spec = load({"NAME": name, block: {key: True}})
    [warning] = [d for d in spec.notes if d.severity == "warning"]
    assert (warning.code, warning.path) == ("GM231", f"MODEL.TRUNK.{block}.{key}")
    assert key.lower() not in spec.trunks["trunk"].params


@pytest.mark.parametrize(
    ("block", "key"),
    [("RESNETS", "DEPHT"), ("RESNETS", "depth"), ("VISION_TRANSFORMERS", "PATCH_SIZ"), ("CONVIT", "GPSA_LAYERS")],
)
def test_a_near_miss_of_a_key_stays_an_error(block: str, key: str) -> None:
    with pytest.raises(graphmodel.CompileError, match=f"unknown key `{key}`") as caught:
        load({"NAME": "resnet", block: {key: 18}})
    assert [d.code for d in caught.value.diagnostics if d.severity == "error"] == ["GM201"]


def test_an_empty_placeholder_of_weights_is_a_warning() -> None:
    spec = load({"NAME": "resnet"}, WEIGHTS_INIT={"PARAM_FILE": {}})
    assert [(d.code, d.severity) for d in spec.notes if "PARAM_FILE" in d.message] == [("GM231", "warning")]
    assert spec.weights is None or not spec.weights.file


@pytest.mark.parametrize("name", ["alexnet_bvlc", "alexnet_deepcluster", "alexnet_jigsaw", "alexnet_rotnet"])
def test_alexnets_that_ignore_the_input_type_read_all_channels_of_a_lab_image(name: str) -> None:
    """VISSL: their `forward` starts with `feat = x`, or with the filter of DeepCluster."""
    spec = load({"NAME": name}, INPUT_TYPE="lab")
    assert spec.trunks["trunk"].input_type == "rgb"
    assert any("ignores INPUT_TYPE" in d.message for d in spec.notes)
    assert load({"NAME": "alexnet_colorization"}, INPUT_TYPE="lab").trunks["trunk"].input_type == "lab"
