"""Checkpoints with several networks: names decide or a warning says so, never the order of the keys."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError, LoadReport
from tests.reference import NarrowResNet

ONE = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return NarrowResNet()


A, B = network(1), network(2)


@cache
def compiled(*trunks: str) -> graphmodel.CompiledModel:
    """The model that the tests fill copies of: one trunk, or two of these names."""
    if not trunks:
        return graphmodel.compile(ONE, seed=0)
    parts = {name: {"name": "resnet", "depth": 18, "width_multiplier": 0.25} for name in trunks}
    mapping = {"images": {f"{name}.flatten": None for name in trunks}}
    return graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunks": parts, "mapping": mapping}, seed=0)


def one() -> graphmodel.CompiledModel:
    return copy.deepcopy(compiled())


def two(first: str = "student", second: str = "teacher") -> graphmodel.CompiledModel:
    return copy.deepcopy(compiled(first, second))


def prefixed(net: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in net.state_dict().items()}


def load(model: nn.Module, source: Any, **options: Any) -> LoadReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return graphmodel.load_weights(model, source, **options)


def holds(trunk: nn.Module, net: nn.Module) -> bool:
    """Whether a trunk has all of a network's weights."""
    theirs = net.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in trunk.state_dict().items())


PAIRS = [
    # the one that is taken, the other
    ("encoder_q", "encoder_k"), ("teacher", "student"), ("online", "target"), ("state_dict_ema", "state_dict"),
    ("model_ema", "model"), ("backbone", "backbone_momentum"), ("base_encoder", "momentum_encoder"), ("a", "b"),
]  # fmt: skip


def nested(names: tuple[str, str], order: int) -> dict[str, Any]:
    parts = {names[0]: prefixed(A), names[1]: prefixed(B)}
    return {name: parts[name] for name in (names if order else names[::-1])}


def flat(names: tuple[str, str], order: int) -> dict[str, Any]:
    parts = {names[0]: prefixed(A, f"module.{names[0]}."), names[1]: prefixed(B, f"module.{names[1]}.")}
    both = [parts[name] for name in (names if order else names[::-1])]
    return {"weights": {**both[0], **both[1]}}


@pytest.mark.parametrize(
    ("names", "wrap"),
    [
        (names, wrap)
        for i, names in enumerate(PAIRS)
        for wrap in ((nested, flat) if i == 0 else (nested, flat)[i % 2 :][:1])
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value.__name__,
)
def test_names_decide_with_a_warning_and_key_order_never_does(names: tuple[str, str], wrap: Any) -> None:
    model = one()
    for order in (0, 1):
        report = load(model, wrap(names, order))
        assert holds(model.trunk, A)
        (warning,) = report.warnings
        assert (warning.code, warning.severity) == ("GM514", "warning")
        assert all(f"{name}` (100 tensors)" in warning.message for name in names)
        assert f'network="{names[1]}"' in warning.help
        assert warning.message in str(report)
        report = load(model, wrap(names, order), network=names[1])
        assert holds(model.trunk, B)
        assert report.warnings == []


def test_the_warning_is_a_python_warning_too() -> None:
    model = one()
    with pytest.warns(UserWarning, match="2 networks fit equally well"):
        graphmodel.load_weights(model, nested(("x", "y"), 0))


def test_equal_networks_need_no_choice() -> None:
    model = one()
    assert load(model, {"model": prefixed(A), "ema": prefixed(A)}).warnings == []
    assert holds(model.trunk, A)


def test_the_network_that_covers_more_of_the_trunk_is_taken() -> None:
    part = {k: v for k, v in prefixed(B).items() if not k.startswith("layer4")}
    model = one()
    for content in ({"teacher": part, "other": prefixed(A)}, {"other": prefixed(A), "teacher": part}):
        assert load(model, content).warnings == []
        assert holds(model.trunk, A)


def test_vissls_own_model_is_preferred_to_what_its_loss_keeps() -> None:
    def trunk(net: nn.Module) -> dict[str, Any]:
        return {f"_feature_blocks.{k}": v for k, v in net.state_dict().items() if not k.startswith("fc.")}

    loss = {f"moco_encoder.trunk.{k}": v for k, v in trunk(B).items()}
    content = {"classy_state_dict": {"loss": loss, "base_model": {"model": {"trunk": trunk(A), "heads": {}}}}}
    model = one()
    assert load(model, content).warnings == []
    assert holds(model.trunk, A)
    load(model, content, network="moco_encoder")
    assert holds(model.trunk, B)


def test_an_unknown_network_is_refused_with_those_that_fit() -> None:
    model = one()
    with pytest.raises(CompileError) as caught:
        load(model, nested(("student", "teacher"), 0), network="techer")
    (found,) = caught.value.diagnostics
    assert found.code == "GM514"
    assert "did you mean `teacher`?" in found.help
    assert "student" in found.help


# -- several trunks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("wrap", [nested, flat])
def test_networks_fill_the_trunks_of_their_names(wrap: Any, order: int) -> None:
    model = two()
    report = load(model, wrap(("student", "teacher"), order))
    assert holds(model.trunks.student, A)
    assert holds(model.trunks.teacher, B)
    assert (report.missing, report.warnings, report.covered) == ([], [], report.total)


def test_a_name_may_be_a_word_of_the_networks() -> None:
    model = two("online", "target")
    load(model, {**prefixed(B, "target_encoder."), **prefixed(A, "online_encoder.")})
    assert holds(model.trunks.online, A)
    assert holds(model.trunks.target, B)


def test_a_map_says_which_network_fills_which_trunk() -> None:
    model = two()
    content = nested(("student", "teacher"), 0)
    load(model, content, network={"teacher": "trunks.student", "student": "teacher"})
    assert holds(model.trunks.student, B)
    assert holds(model.trunks.teacher, A)
    load(model, content, network={"teacher": ["student", "teacher"]})
    assert holds(model.trunks.student, B)
    assert holds(model.trunks.teacher, B)


def test_a_map_fills_heads_too() -> None:
    spec = {**ONE, "heads": {"head": {"mlp": {"dims": ["auto", 10]}}}}
    model = graphmodel.compile(spec, seed=0)
    head = nn.Linear(128, 10)
    content = {"net": prefixed(A), "probe": {f"clf.0.{k}": v for k, v in head.state_dict().items()}}
    report = load(model, content, network={"net": "trunk", "probe": "head"})
    assert torch.equal(model.state_dict()["heads.head.clf.0.weight"], head.weight)
    assert report.missing == []


def test_networks_without_the_trunks_names_are_refused_and_listed() -> None:
    model = two("a", "b")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for content in (nested(("one", "two"), 0), {"one": prefixed(A)}):
        with pytest.raises(CompileError) as caught:
            load(model, content)
        (found,) = caught.value.diagnostics
        assert found.code == "GM514"
        assert "`one` (100 tensors)" in found.message
        assert "network={" in found.help
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_shapes_decide_between_trunks_of_two_architectures() -> None:
    trunks = {
        "a": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "b": {"name": "resnet", "depth": 34, "width_multiplier": 0.25},
    }
    mapping = {"images": {"a.flatten": None, "b.flatten": None}}
    model = graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunks": trunks, "mapping": mapping}, seed=0)

    deep = NarrowResNet((3, 4, 6, 3))
    load(model, {"x": prefixed(deep), "y": prefixed(A)}, network={"y": "a", "x": "b"})
    assert holds(model.trunks.a, A)
    assert holds(model.trunks.b, deep)


def test_this_modules_own_state_needs_no_map() -> None:
    model, other = two("a", "b"), two("a", "b")
    load(model, {"module." + k: v + 1 for k, v in other.state_dict().items()})
    assert all(torch.equal(v, other.state_dict()[k] + 1) for k, v in model.state_dict().items())


# -- prefixes and positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [False, True])
def test_a_prefix_is_never_a_block_inside_of_the_network(partial: bool) -> None:
    """A foreign outer layout whose blocks have the library's names: `bn1` of a block is not the stem's."""
    net = NarrowResNet()
    nn.init.normal_(net.layer1[0].bn1.weight)
    blocks = {f"stage_{k.replace('layer', '')}": v for k, v in net.state_dict().items() if k.startswith("layer")}
    model = one()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompileError) as caught:
        load(model, blocks, partial=partial)
    assert caught.value.diagnostics[0].code == "GM511"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
@pytest.mark.parametrize("end", [-1, -2])
def test_children_in_a_sequential_are_found_by_their_positions(prefix: str, end: int) -> None:
    """The way lightly and many notebooks cut a backbone."""
    body = nn.Sequential(*list(A.children())[:end])
    model = one()
    content = {**prefixed(body, prefix), "projection_head.layers.0.weight": torch.zeros(4, 128)}
    report = load(model, content)
    assert holds(model.trunk, A)
    assert report.matched["trunk.layer1.0.conv1.weight"] == f"{prefix}4.0.conv1.weight"
    assert report.unexpected == ["projection_head.layers.0.weight"]


def test_wrappers_inside_of_a_network_are_seen_through() -> None:
    state = {}
    for key, value in A.state_dict().items():
        key = key.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module.").replace("layer2.", "layer2._orig_mod.")
        state["_forward_module." + key.replace("layer3.", "_fsdp_wrapped_module.layer3.")] = value
    model = one()
    assert load(model, state).unexpected == []
    assert holds(model.trunk, A)


@pytest.mark.parametrize("keys", [("", "module."), ("module.", "")])
def test_a_key_that_appears_twice_is_one_target(keys: tuple[str, ...]) -> None:
    vissl = {f"trunk._feature_blocks.{k}": v for k, v in A.state_dict().items()}
    content = {prefix + k: v for prefix in keys for k, v in vissl.items()}
    model = one()
    report = load(model, content)
    assert len(report.matched) == 120
    assert report.covered == report.total == 100
    assert report.warnings == []
    assert holds(model.trunk, A)
    for key in content:
        if key.startswith("module."):
            content[key] = content[key] + 1
    assert [w.code for w in load(model, content).warnings] in (["GM514"], ["GM517"])
    assert holds(model.trunk, A)


def test_every_tensor_is_counted_once() -> None:
    spec: dict[str, Any] = {**ONE, "heads": {"head": {"mlp": {"dims": ["auto", 10]}}}}
    spec["mapping"] = {"images": {"res4": {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "heads": ["head"]}}}
    model = graphmodel.compile(spec, seed=0)
    state = {**prefixed(A), "conv1.weight": torch.zeros(64, 13, 7, 7), "extra": torch.zeros(3)}
    report = load(model, state, partial=True)
    parts = (report.matched, report.unexpected, report.pruned, report.skipped, report.duplicates, report.wrong_shape)
    assert sum(map(len, parts)) == len(state)
    floats = [k for k, v in model.state_dict().items() if v.is_floating_point()]
    assert report.total == len(floats)
    assert sorted(report.missing) == sorted(set(floats) - set(report.matched))
    assert report.covered == len(set(floats) & set(report.matched))


@pytest.mark.parametrize(
    "options",
    [{"match": "ordr"}, {"network": ["a"]}, {"interpolate": "yes"}, {"interpolate": (4,)}, {"interpolate": (0, 4)}],
)
def test_arguments_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="not"):
        load(graphmodel.compile(ONE, device="meta"), prefixed(A), **options)
