"""`torchvision:NAME` against torchvision itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import graphmodel
from graphmodel.components.library.torchvision_features import ROWS
from graphmodel.components.registry import find_trunk
from tests.trunk_helpers import describe_trunk


def compiled(trunk: Any, *features: str, shape: tuple[int, ...] = (3, 64, 64), **options: Any) -> Any:
    document = {
        "inputs": {"images": list(shape)},
        "trunk": trunk,
        "mapping": [{"from": f"images.{f}", "as": f.replace(".", "_")} for f in features],
    }
    return graphmodel.compile(document, **{"seed": 0, **options})


def refused(trunk: Any, shape: tuple[int, ...] = (3, 64, 64)) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        compiled(trunk, "flatten", shape=shape)
    (finding,) = caught.value.diagnostics
    return finding


def own(name: str, **keywords: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, weights=None, **keywords).eval()


def test_weights_and_numbers_are_torchvisions() -> None:
    model = compiled("torchvision:resnet18", "res3", "res5", "flatten", "logits").eval()
    reference = own("resnet18")
    state = reference.state_dict()
    assert list(model.state_dict()) == [f"trunk.{k}" for k in state]
    assert all(torch.equal(v, state[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())
    x = torch.rand(2, 3, 64, 64)
    expected = create_feature_extractor(reference, {"layer2": "res3", "layer4": "res5", "flatten": "flatten"})(x)
    out = model(x)
    assert all(torch.equal(out[k], v) for k, v in expected.items())
    assert torch.equal(out["logits"], reference(x))


STAGES = {
    "alexnet": [4, 8, 16, 32],
    "convnext_tiny": [4, 8, 16, 32],
    "densenet121": [2, 4, 8, 16, 32],
    "efficientnet_b0": [2, 4, 8, 16, 32],
    "googlenet": [2, 4, 8, 16, 32],
    "inception_v3": [2, 4, 8, 16, 32],
    "maxvit_t": [2, 4, 8, 16, 32],
    "mnasnet0_5": [2, 4, 8, 16, 32],
    "mobilenet_v2": [2, 4, 8, 16, 32],
    "mobilenet_v3_small": [2, 4, 8, 16, 32],
    "regnet_y_400mf": [2, 4, 8, 16, 32],
    "resnet18": [2, 4, 8, 16, 32],
    "shufflenet_v2_x0_5": [2, 4, 8, 16, 32],
    "squeezenet1_1": [2, 4, 8, 16],
    "swin_t": [4, 8, 16, 32],
    "vgg11": [2, 4, 8, 16, 32],
    "vit_b_16": [16] * 12,
}


def test_there_is_a_row_for_every_classification_model() -> None:
    modules = {getattr(models.get_model_builder(n), "__module__", "") for n in models.list_models(module=models)}
    assert {row.model.__module__ for row in ROWS} == modules


HEAVY = (
    "maxvit_t",
    "densenet121",
    "vgg11",
    "vit_b_16",
    "inception_v3",
    "swin_t",
    "convnext_tiny",
    "alexnet",
    "googlenet",
)


def marked(names: Any) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in names]


@pytest.mark.parametrize("name", marked(STAGES))
def test_stages_are_in_the_order_of_their_strides(name: str) -> None:
    size = 299 if name == "inception_v3" else 224
    rows = describe_trunk(f"torchvision:{name}", shape=(3, size, size))
    stages = [r for r in rows if r.name.startswith(("stage", "block", "stem"))]
    # A stride is read off the size of the map: some models do not pad, so 299 pixels at stride 32 are 8.
    assert [min(2, 4, 8, 16, 32, key=lambda s, r=r: abs(s - (r.stride or 0))) for r in stages] == STAGES[name]
    res = {a: STAGES[name][i] for i, r in enumerate(stages) for a in r.aliases if a.startswith("res")}
    if name != "vit_b_16":
        assert res == {f"res{i}": s for i, s in zip((2, 3, 4, 5), (4, 8, 16, 32), strict=True) if s in STAGES[name]}
    names = [r.name for r in rows]
    assert names[len(stages) :] in (["features", "flatten", "logits"], ["features", "flatten", "pre_logits", "logits"])


@pytest.mark.parametrize("name", marked(n for n in STAGES if n != "squeezenet1_1"))
def test_the_last_layer_reads_pre_logits(name: str) -> None:
    reference = build_without_dropout(name)
    last = [m for m in reference.modules() if isinstance(m, nn.Linear)]
    if name in ("googlenet", "inception_v3"):
        last = [reference.fc]  # type: ignore[list-item]
    seen: list[torch.Tensor] = []
    last[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    size = 224 if name in ("alexnet", "vit_b_16", "maxvit_t") else 96
    x = torch.rand(1, 3, size, size)
    document = {"inputs": {"images": [3, size, size]}, "trunk": "given", "mapping": {"images": {"pre_logits": None}}}
    model = graphmodel.compile(document, trunks={"trunk": reference}, returns="tensor").eval()
    with torch.no_grad():
        found = model(x)
        reference.eval()(x)
    assert torch.equal(found, seen[-1])


def build_without_dropout(name: str) -> nn.Module:
    module = own(name)
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return module


@pytest.mark.parametrize("training", [False, True])
def test_the_main_logits_of_googlenet_are_the_logits_in_both_modes(training: bool) -> None:
    still = {"dropout": 0.0, "dropout_aux": 0.0, "init_weights": False}
    model = compiled({"name": "torchvision:googlenet", **still}, "logits", "aux1")
    reference = own("googlenet", **still)
    x = torch.rand(2, 3, 64, 64)
    model.train(training)
    reference.train(training)
    found = model(x)["logits"]
    result = reference(x)
    assert torch.equal(found, result.logits if training else result)


@pytest.mark.slow
def test_the_final_norm_of_a_vision_transformer() -> None:
    trunk = {"name": "torchvision:vit_b_16", "image_size": 32}
    document = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": trunk,
        "mapping": [
            {"from": {"from": "images.block11", "norm": True, "tokens": "class"}, "as": "token"},
            {"from": "images.flatten", "as": "vector"},
            {"from": {"from": "images.block3", "layout": "nchw"}, "as": "map"},
        ],
    }
    out = graphmodel.compile(document, seed=0).eval()(torch.rand(2, 3, 32, 32))
    assert torch.equal(out["token"], out["vector"])
    assert out["map"].shape == (2, 768, 2, 2)


def test_keyword_arguments_go_to_the_constructor() -> None:
    model = compiled({"name": "torchvision:resnet18", "num_classes": 7, "width_per_group": 64}, "logits")
    assert model.trunk.fc.out_features == 7
    finding = refused({"name": "torchvision:resnet18", "num_class": 7})
    assert (finding.code, finding.help.split("?")[0]) == ("GM201", "did you mean `num_classes`")


def test_an_unknown_model_names_the_nearest() -> None:
    assert "`torchvision:resnet50`" in refused("torchvision:resnet_50").help


def test_a_fixed_size_names_the_option() -> None:
    finding = refused("torchvision:vit_b_16", (3, 96, 96))
    assert finding.code == "GM305"
    assert "`image_size: 96`" in finding.help


def test_luminance_takes_one_channel() -> None:
    model = compiled({"name": "torchvision:resnet18", "input_type": "lab"}, "flatten")
    assert model.trunk.conv1.weight.shape[1] == 1
    assert model(torch.rand(2, 3, 64, 64))["flatten"].shape == (2, 512)


# -- weights -----------------------------------------------------------------------------------------------------------


def test_published_weights_come_from_torchvisions_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    source = models.googlenet(weights=None, init_weights=False)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    file = models.GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(source.state_dict(), folder / file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = compiled({"name": "torchvision:googlenet", "pretrained": True}, "logits").eval()
    state = source.state_dict()
    assert all(torch.equal(v, state[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())
    # Published weights bring their input transform with them, which is no module: the graph must have it too.
    x = torch.rand(2, 3, 64, 64)
    source.transform_input = True
    assert torch.equal(model(x)["logits"], source.eval()(x))
    named = compiled({"name": "torchvision:googlenet", "pretrained": "IMAGENET1K_V1"}, "logits")
    assert all(torch.equal(v, state[k.removeprefix("trunk.")]) for k, v in named.state_dict().items())


def test_a_file_in_torchvisions_layout(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = models.resnet18(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    trunk = {"name": "torchvision:resnet18", "num_classes": 7, "pretrained": str(tmp_path / "weights.pth")}
    model = compiled(trunk, "logits")
    state = source.state_dict()
    assert all(torch.equal(v, state[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())


def test_weights_are_asked_for_by_pretrained() -> None:
    finding = refused({"name": "torchvision:resnet18", "weights": "IMAGENET1K_V1"})
    assert "`pretrained: IMAGENET1K_V1`" in finding.help
    assert refused({"name": "torchvision:resnet18", "pretrained": "IMAGENET1K_V9"}).code == "GM510"


def test_a_family_without_published_weights_says_where_there_are_some() -> None:
    finding = refused({"name": "resnet", "pretrained": True})
    assert finding.code == "GM201"
    assert "torchvision:NAME" in finding.help


def test_models_with_other_tasks_are_found_by_name() -> None:
    assert find_trunk("torchvision:r3d_18") is not None
