"""Checkpoints of every kind find their way, and say what they did."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

import graphmodel
from graphmodel import CompileError

VISSL = {
    "MODEL": {
        "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
        "HEAD": {"PARAMS": [["mlp", {"dims": [512, 16], "use_relu": True, "skip_last_layer_relu_bn": False}], ["mlp", {"dims": [16, 4]}]]},
    }
}  # fmt: skip


@pytest.fixture
def small(small: dict[str, Any]) -> dict[str, Any]:
    """As wide as the networks whose checkpoints are loaded."""
    del small["trunk"]["width_multiplier"]
    return small


def library() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return {k: v.clone() for k, v in resnet18().state_dict().items()}


def vissl_state() -> dict[str, torch.Tensor]:
    """A VISSL checkpoint of the model above, by its own names."""
    trunk = {f"trunk._feature_blocks.{k}": v for k, v in library().items() if not k.startswith("fc.")}
    first, second = nn.Linear(512, 16), nn.Linear(16, 4)
    heads = {
        f"heads.{i}.clf.0.{k}": v.detach() for i, m in enumerate((first, second)) for k, v in m.state_dict().items()
    }
    return {**trunk, **heads}


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + k: v for k, v in state.items()}


def nested(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """VISSL's training checkpoint around a state dict."""
    parts = {
        p: {k.removeprefix(f"{p}."): v for k, v in state.items() if k.startswith(f"{p}.")} for p in ("trunk", "heads")
    }
    return {"phase_idx": 3, "classy_state_dict": {"base_model": {"model": parts}}}


def check_trunk(model: nn.Module) -> None:
    want = library()
    for key, value in model.state_dict().items():
        if key.startswith("trunk.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(value, want[key.removeprefix("trunk.")]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: prefixed(s, "module."),
        lambda s: prefixed(s, "_orig_mod."),
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: {"state_dict": prefixed(s, "module.encoder_q.")},
        lambda s: {"epoch": 3, "model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"teacher": prefixed(s, "backbone."), "args": None},
        lambda s: prefixed(s, "_feature_blocks."),
        lambda s: prefixed(s, "trunk._feature_blocks."),
        lambda s: prefixed(s, "trunk.base_model._feature_blocks."),
        lambda s: prefixed(s, "trunk."),
    ],
    ids=["torchvision", "ddp", "compile", "both", "moco", "nested", "dino", "blocks", "vissl", "extractor", "ours"],
)
def test_prefixes_and_nesting_are_found_out(small: dict[str, Any], wrap: Any) -> None:
    model = graphmodel.compile(small, seed=0)
    report = graphmodel.load_weights(model, wrap(library()))
    check_trunk(model)
    assert sorted(report.missing) == ["heads.head.clf.0.bias", "heads.head.clf.0.weight"]
    assert [k for k in report.unexpected if "fc." not in k] == []
    assert report.parameters == sum(p.numel() for n, p in model.state_dict().items() if n.startswith("trunk."))


@pytest.mark.parametrize(
    "wrap", [lambda s: s, nested, lambda s: prefixed(s, "module.")], ids=["flat", "training", "ddp"]
)
def test_vissl_checkpoints_bring_their_heads(wrap: Any) -> None:
    state = vissl_state()
    model = graphmodel.compile(VISSL, seed=0)
    report = graphmodel.load_weights(model, wrap(state))
    check_trunk(model)
    assert torch.equal(model.state_dict()["heads.head.0.clf.0.weight"], state["heads.0.clf.0.weight"])
    assert torch.equal(model.state_dict()["heads.head.1.clf.0.bias"], state["heads.1.clf.0.bias"])
    assert report.missing == []
    assert report.unexpected == []


@pytest.mark.parametrize("ending", [".safetensors", ".torch", ".pth"])
def test_files_of_both_kinds(small: dict[str, Any], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    state = {k: v.contiguous() for k, v in library().items()}
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    model = graphmodel.compile(small, seed=0)
    graphmodel.load_weights(model, path)
    check_trunk(model)


class Evil:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.marker)!r}, 'w')",))


def test_code_in_a_checkpoint_is_never_run(small: dict[str, Any], tmp_path: Path) -> None:
    marker, evil = tmp_path / "marker", Evil(tmp_path / "marker")
    for path in (tmp_path / "evil.pth", tmp_path / "evil.pkl"):
        torch.save({"state_dict": evil}, path) if path.suffix == ".pth" else path.write_bytes(pickle.dumps(evil))
        with pytest.raises(CompileError) as caught:
            graphmodel.load_weights(graphmodel.compile(small, seed=0), path)
        assert caught.value.diagnostics[0].code == "GM510"
    assert not marker.exists()


def test_unreadable_files_are_diagnosed(small: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile(small, seed=0)
    (tmp_path / "noise.pth").write_bytes(b"\x00" * 100)
    (tmp_path / "noise.safetensors").write_bytes(b"{}")
    for path in (tmp_path / "nowhere.pth", tmp_path / "noise.pth", tmp_path / "noise.safetensors", tmp_path):
        with pytest.raises(CompileError) as caught:
            graphmodel.load_weights(model, path)
        assert [d.code for d in caught.value.diagnostics] == ["GM510"]


def test_below_full_trunk_coverage_it_is_an_error_unless_allowed(small: dict[str, Any]) -> None:
    state = {k: v for k, v in library().items() if not k.startswith("layer4")}
    model = graphmodel.compile(small, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompileError, match="25 of them in the trunk") as caught:
        graphmodel.load_weights(model, state)
    assert caught.value.diagnostics[0].code == "GM512"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "a refused load changes nothing"
    report = graphmodel.load_weights(model, state, partial=True)
    assert any(k.startswith("trunk.layer4") for k in report.missing)
    assert torch.equal(model.trunk.conv1.weight, state["conv1.weight"])


def test_weights_of_another_model_are_refused(small: dict[str, Any]) -> None:
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(graphmodel.compile(small, seed=0), nn.Linear(3, 3).state_dict())
    assert caught.value.diagnostics[0].code == "GM511"


def test_wrong_shapes_are_named_with_both(small: dict[str, Any]) -> None:
    state = library()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    report = graphmodel.load_weights(graphmodel.compile(small, seed=0), state, partial=True)
    assert [(w.ours, w.shape, w.wanted) for w in report.wrong_shape] == [
        ("trunk.conv1.weight", (64, 1, 7, 7), (64, 3, 7, 7))
    ]
    assert "(64, 1, 7, 7)" in str(report)


def test_keys_of_pruned_stages_are_not_unexpected(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "heads": {}, "mapping": {"images": {"res3": None}}}, seed=0)
    report = graphmodel.load_weights(model, library())
    assert report.unexpected == []
    assert any(k.startswith("layer4") for k in report.pruned)
    assert report.missing == []


def test_vissls_own_settings_are_honoured() -> None:
    spec = {"MODEL": {**VISSL["MODEL"], "WEIGHTS_INIT": {
        "PARAMS_FILE": "x", "STATE_DICT_KEY_NAME": "weights", "REMOVE_PREFIX": "encoder.", "SKIP_LAYERS": ["bn1"],
        "APPEND_PREFIX": "trunk._feature_blocks.",
    }}}  # fmt: skip
    model = graphmodel.compile(spec, seed=0)
    untouched = model.trunk.bn1.weight.clone()
    checkpoint = {"other": {"a": torch.zeros(3)}, "weights": prefixed(library(), "encoder.")}
    checkpoint["weights"]["encoder.bn1.weight"] = torch.full((64,), 7.0)
    graphmodel.load_weights(model, checkpoint, partial=True)
    assert torch.equal(model.trunk.conv1.weight, library()["conv1.weight"])
    assert torch.equal(model.trunk.bn1.weight, untouched)


def test_a_spec_without_weights_needs_a_source(small: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="no checkpoint was given"):
        graphmodel.load_weights(graphmodel.compile(small, seed=0))


@pytest.mark.parametrize("frozen", [False, True])
def test_vissls_layout_is_a_round_trip(frozen: bool) -> None:
    block = {"MODEL": dict(VISSL["MODEL"])}
    if frozen:
        block["MODEL"]["FEATURE_EVAL_SETTINGS"] = {
            "EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True,
            "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [["res5avg", ["Identity", []]]],
        }  # fmt: skip
    model, other = graphmodel.compile(block, seed=0), graphmodel.compile(block, seed=1)
    state = graphmodel.export_weights(model, "vissl")
    start = "trunk.base_model._feature_blocks." if frozen else "trunk._feature_blocks."
    assert f"{start}layer1.0.conv1.weight" in state
    assert {"heads.0.clf.0.weight", "heads.1.clf.0.weight"} <= set(state)
    report = graphmodel.load_weights(other, state, dialect="vissl")
    assert report.missing == []
    assert report.unexpected == []
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_librarys_layout_loads_into_the_library(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0)
    theirs = resnet18()
    result = theirs.load_state_dict(graphmodel.export_weights(model, "torchvision"), strict=False)
    assert (sorted(result.missing_keys), result.unexpected_keys) == (["fc.bias", "fc.weight"], [])
    with pytest.raises(CompileError, match="torchvision's, not timm's"):
        graphmodel.export_weights(model, "timm")
