"""`param_groups` gives each parameter the rate and decay that timm's function, or a grouping by hand, gives it."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import graphmodel

HEAD = {"label": {"mlp": {"dims": ["auto", 10]}}}


def compiled(trunk: dict[str, Any], **spec: Any) -> Any:
    document = {"inputs": {"images": [3, 32, 32]}, "trunk": trunk, "heads": HEAD, **spec}
    return graphmodel.compile(document, device="meta")


def settings(groups: list[dict[str, Any]], module: nn.Module) -> dict[str, tuple[float, float]]:
    """Rate and decay by the parameter's name; every parameter is in one group."""
    names = {id(p): name for name, p in module.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups)
    return found


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3, "reg_tokens": 2}),
        ("resnet18", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": [1, 1, 2, 1]}),
        ("regnety_002", {}),
    ],
)
def test_layer_decay_is_that_of_timm(name: str, arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=10, **arguments)
    undecayed = reference.no_weight_decay() if hasattr(reference, "no_weight_decay") else ()
    theirs = param_groups_layer_decay(reference, weight_decay=0.05, no_weight_decay_list=undecayed, layer_decay=0.7)
    names = {id(p): n for n, p in reference.named_parameters()}
    wanted = {names[id(p)]: (2 * g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}
    model = compiled({"name": f"timm:{name}", **arguments})
    found = settings(graphmodel.param_groups(model, lr=2, weight_decay=0.05, layer_decay=0.7), model)
    classifier = ("head.fc.", "fc.", "head.weight", "head.bias")
    wanted = {n: value for n, value in wanted.items() if not n.startswith(classifier)}
    in_trunk = {n: found[f"trunk.{n}"] for n in wanted}
    assert {n for n in found if n.startswith("trunk.")} - {f"trunk.{n}" for n in wanted} <= {
        "trunk.head.fc.weight",
        "trunk.head.fc.bias",
    }
    for parameter, (lr, decay) in in_trunk.items():
        assert lr == pytest.approx(wanted[parameter][0]), parameter
        # timm decays register tokens.
        assert decay == (0 if parameter == "reg_token" else wanted[parameter][1]), parameter
    assert found["heads.label.clf.0.weight"] == (2, 0.05)
    assert found["heads.label.clf.0.bias"] == (2, 0)


def test_a_resnet_is_grouped_as_by_hand() -> None:
    model = compiled({"name": "resnet", "depth": 18, "width_multiplier": 0.25})
    groups = graphmodel.param_groups(model, lr=0.1, weight_decay=1e-4, trunk_lr=0.01, head_lr={"label": 1.0})
    found = settings(groups, model)
    for path, module in model.named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            lr = 0.01 if path.startswith("trunk.") else 1.0
            decays = isinstance(module, (nn.Conv2d, nn.Linear)) and leaf == "weight"
            assert found.pop(f"{path}.{leaf}") == (lr, 1e-4 if decays else 0.0)
    assert not found
    assert len(groups) == len({g["name"] for g in groups}) == 4


def test_features_do_not_change_the_layers() -> None:
    """A tap inside of a stage opens it; layers are counted in the trunk and not in the calls."""
    trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "depth": 3}
    tapped = compiled(
        trunk, heads={}, mapping=[{"from": f"images.{f}", "as": f"{f[:4]}_"} for f in ("blocks.1", "flatten")]
    )
    plain = compiled(trunk)
    found, wanted = (settings(graphmodel.param_groups(m, lr=1, layer_decay=0.5), m) for m in (tapped, plain))
    assert found == {name: value for name, value in wanted.items() if name.startswith("trunk.")}


def test_layers_that_no_output_needs_do_not_count() -> None:
    model = compiled(
        {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        heads={},
        mapping=[{"from": "images.res3", "as": "map"}],
    )
    found = settings(graphmodel.param_groups(model, lr=1, layer_decay=0.5), model)
    assert found["trunk.layer2.1.conv2.weight"] == (0.5, 0)
    assert found["trunk.layer1.0.conv1.weight"] == (0.5**4, 0)
    assert found["trunk.conv1.weight"] == (0.5**5, 0)


@pytest.mark.parametrize(("trunk", "layers"), [("alexnet_bvlc", 5), ("torchvision:googlenet", 10)])
def test_trunks_without_numbered_blocks_have_layers(trunk: str, layers: int) -> None:
    model = graphmodel.compile({"inputs": {"images": [3, 224, 224]}, "trunk": trunk}, device="meta")
    groups = graphmodel.param_groups(model, lr=1, layer_decay=0.5)
    assert {g["lr"] for g in groups} == {0.5 ** (i + 1) for i in range(layers)}


def test_frozen_parameters_are_left_out() -> None:
    model = compiled(
        {"name": "resnet", "depth": 18, "width_multiplier": 0.25}, freeze=["trunk.conv1", "trunk.bn1", "trunk.layer1"]
    )
    found = settings(graphmodel.param_groups(model, lr=1, layer_decay=0.5), model)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert found["trunk.layer2.0.conv1.weight"] == (0.5**6, 0), "frozen layers count as layers"


def test_what_a_wrapper_holds_besides_is_grouped_too() -> None:
    model = compiled({"name": "resnet", "depth": 18, "width_multiplier": 0.25})
    wrapper = nn.ModuleDict({"model": model, "extra": nn.Linear(2, 2)})
    groups = graphmodel.param_groups(wrapper, lr=1, weight_decay=0.1)
    others = [(g["name"], len(g["params"]), g["weight_decay"]) for g in groups[-2:]]
    assert others == [("other", 1, 0.1), ("other, no decay", 1, 0.0)]
    assert sum(len(g["params"]) for g in groups) == len(list(wrapper.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, "`lr` takes a number that is not negative, not -1"),
        ({"lr": 1, "weight_decay": float("nan")}, "`weight_decay` takes"),
        ({"lr": 1, "layer_decay": 1.5}, "`layer_decay` takes a factor between 0 and 1"),
        ({"lr": 1, "head_lr": {"labels": 1}}, "did you mean `label`"),
        ({"lr": 1, "head_lr": {"label": "1"}}, "head_lr"),
    ],
)
def test_wrong_arguments_are_one_diagnostic(options: dict[str, Any], message: str) -> None:
    model = compiled({"name": "resnet", "depth": 18, "width_multiplier": 0.25})
    with pytest.raises(graphmodel.CompileError, match=message) as caught:
        graphmodel.param_groups(model, **options)
    assert [d.code for d in caught.value.diagnostics] == ["GM591"]


def test_a_model_that_is_frozen_has_nothing_to_train() -> None:
    model = compiled({"name": "resnet", "depth": 18, "width_multiplier": 0.25}, freeze=["all"])
    with pytest.raises(graphmodel.CompileError, match="every parameter is frozen"):
        graphmodel.param_groups(model, lr=1)
    model = graphmodel.compile({"inputs": {"x": [3]}, "mapping": [{"from": "x", "normalize": True, "as": "z"}]})
    with pytest.raises(graphmodel.CompileError, match="the model has no parameters"):
        graphmodel.param_groups(model, lr=1)
