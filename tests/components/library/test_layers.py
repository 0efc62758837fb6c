"""Layers of torch, torchvision and timm are heads by the name of their class."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from timm import layers as timm_layers
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import graphmodel
from graphmodel import CompileError
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.components.library.layer_names import PACKAGES, InvalidLayer, classes
from graphmodel.components.library.layers import find_layer
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.dialects.native.dump import dump

IMAGES: dict[str, Any] = {"inputs": {"images": [3, 64, 96]}, "trunk": {"name": "resnet", "depth": 18}}
SEGMENTATION = "torchvision.models.segmentation"
HEADS: dict[str, tuple[Any, Any, nn.Module]] = {
    "conv": (
        "images.res3",
        {"torch.nn:Conv2d": {"out_channels": 4, "kernel_size": [3, 1], "padding": "same"}},
        nn.Conv2d(128, 4, (3, 1), padding="same"),
    ),
    "pyramid": (
        ["images.res3", "images.res5"],
        {"torchvision.ops:FeaturePyramidNetwork": {"out_channels": 8, "norm_layer": "torch.nn:BatchNorm2d"}},
        FeaturePyramidNetwork([128, 512], 8, norm_layer=nn.BatchNorm2d),
    ),
    "lraspp": (
        [{"from": "images.res3", "as": "low"}, {"from": "images.res5", "as": "high"}],
        {f"{SEGMENTATION}:LRASPPHead": {"num_classes": 3, "inter_channels": 8}},
        LRASPPHead(128, 512, 3, 8),
    ),
    "fcn": ("images.res5", {f"{SEGMENTATION}:FCNHead": {"channels": 3}}, FCNHead(512, 3)),
    "label": ("images.res5", {"timm.layers:ClassifierHead": {"num_classes": 7}}, timm_layers.ClassifierHead(512, 7)),
    "chain": (
        "images.flatten",
        ["torch.nn:BatchNorm1d", "torch.nn:GELU", {"torch.nn:Linear": {"out_features": 3}}],
        nn.Sequential(nn.BatchNorm1d(512), nn.GELU(), nn.Linear(512, 3)),
    ),
}
SPEC: dict[str, Any] = {
    **IMAGES,
    "heads": {name: head for name, (_, head, _) in HEADS.items()},
    "mapping": [
        *({"from": source, "head": name} for name, (source, _, _) in HEADS.items()),
        {"from": "fcn", "resize": "input", "as": "mask"},
    ],
}


@pytest.fixture(scope="module")
def model() -> Any:
    return graphmodel.compile(SPEC, seed=0)


def test_layers_compute_what_they_compute_by_themselves(model: Any) -> None:
    names = ["res3", "res5", "flatten"]
    features = graphmodel.compile(
        {**IMAGES, "mapping": [{"from": f"images.{n}", "as": n} for n in names]}, seed=0, returns="list"
    )
    features.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith("trunk.")})
    model.eval(), features.eval()
    x = torch.randn(2, 3, 72, 90)
    res3, res5, flat = features(x)
    read = {
        "conv": res3,
        "pyramid": {"res3": res3, "res5": res5},
        "lraspp": {"low": res3, "high": res5},
        "fcn": res5,
        "label": res5,
        "chain": flat,
    }
    found = model(x)
    for name, (_, _, layer) in HEADS.items():
        layer.load_state_dict(model.heads[name].state_dict() if name != "chain" else _chain(model))
        expected = layer.eval()(read[name])
        parts = expected if isinstance(expected, dict) else {None: expected}
        for key, value in parts.items():
            torch.testing.assert_close(found[f"{name}.{key}" if key else name], value)
    torch.testing.assert_close(found["mask"], F.interpolate(found["fcn"], (72, 90), mode="bilinear"))


def _chain(model: Any) -> dict[str, torch.Tensor]:
    prefix = "heads.chain."
    return {k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)}


def test_gradients_reach_the_layers_and_the_trunk(model: Any) -> None:
    model.train()
    sum(value.square().mean() for value in model(torch.randn(2, 3, 64, 96)).values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_the_resolved_spec_compiles_to_the_same_code(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lock = dump(resolved_spec(model.model_graph))
    assert lock["heads"]["fcn"] == {f"{SEGMENTATION}:FCNHead": {"in_channels": 512, "channels": 3}}
    assert graphmodel.compile(lock, device="meta").code == model.code


def test_slices_saved_and_drawn_models_have_them(model: Any, tmp_path: Path) -> None:
    model.eval()
    x = torch.randn(2, 3, 64, 96)
    expected = model(x)
    part = model.slice(outputs=["pyramid", "mask"])
    torch.testing.assert_close(part(x)["mask"], expected["mask"])
    assert list(part(x)) == ["pyramid.res3", "pyramid.res5", "mask"]
    graphmodel.save(model, tmp_path / "model")
    loaded = graphmodel.load(tmp_path / "model").eval()
    assert all(torch.equal(loaded(x)[name], value) for name, value in expected.items())


def test_frozen_layers_stay_as_they_are() -> None:
    spec = {**SPEC, "freeze": ["heads.chain"]}
    model = graphmodel.compile(spec, seed=0).train()
    before = {k: v.clone() for k, v in _chain(model).items()}
    model(torch.randn(4, 3, 64, 96))
    assert all(torch.equal(v, before[k]) for k, v in _chain(model).items())
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.startswith("heads.chain"))


def test_a_nested_result_gives_flat_outputs() -> None:
    head = {"torch.nn:LSTM": {"hidden_size": 5, "batch_first": True}}
    spec = {"inputs": {"x": [7, 4]}, "heads": {"rnn": head}, "mapping": [{"from": "x", "head": "rnn"}]}
    model = graphmodel.compile(spec, seed=0)
    x = torch.randn(3, 7, 4)
    y, (h, c) = model.heads.rnn(x)
    found = model(x)
    assert list(found) == ["rnn.0", "rnn.1.0", "rnn.1.1"]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), (y, h, c), strict=True))
    one = graphmodel.compile({**spec, "outputs": ["rnn.1.0"]}, seed=0)
    assert torch.equal(one(x)["rnn.1.0"], h)


def test_a_layer_inside_of_a_layer_is_written_as_a_head() -> None:
    """A text encoder of torch's own layers, and a pyramid with a further level."""
    inner = {"torch.nn:TransformerEncoderLayer": {"nhead": 2, "dim_feedforward": 16, "dropout": 0, "norm_first": True}}
    encoder = {"encoder_layer": inner, "num_layers": 2, "norm": "torch.nn:LayerNorm", "enable_nested_tensor": False}
    spec = {
        "inputs": {"texts": {"shape": [7], "dtype": "int64"}, "a": [4, 8, 8], "b": [6, 4, 4]},
        "heads": {
            "words": [
                {"torch.nn:Embedding": {"num_embeddings": 11, "embedding_dim": 8}},
                {"torch.nn:TransformerEncoder": encoder},
            ],
            "fpn": {
                "torchvision.ops:FeaturePyramidNetwork": {
                    "out_channels": 5,
                    "extra_blocks": {"torchvision.ops:LastLevelP6P7": {"in_channels": 6, "out_channels": 5}},
                }
            },
        },
        "mapping": [{"from": "texts", "head": "words"}, {"from": ["a", "b"], "head": "fpn"}],
    }
    model = graphmodel.compile(spec, seed=0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0, batch_first=True, norm_first=True)
    by_hand = nn.Sequential(
        nn.Embedding(11, 8), nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
    )
    by_hand.load_state_dict(model.heads.words.state_dict())
    pyramid = FeaturePyramidNetwork([4, 6], 5, LastLevelP6P7(6, 5))
    pyramid.load_state_dict(model.heads.fpn.state_dict())
    texts, a, b = torch.randint(0, 11, (3, 7)), torch.randn(3, 4, 8, 8), torch.randn(3, 6, 4, 4)
    for found in (model, graphmodel.compile(dump(resolved_spec(model.model_graph)), seed=0)):
        out = found(texts, a, b)
        torch.testing.assert_close(out.pop("words"), by_hand(texts))
        torch.testing.assert_close(out, {f"fpn.{k}": v for k, v in pyramid({"a": a, "b": b}).items()})


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "RNN", "TransformerEncoderLayer"])
def test_samples_are_never_taken_for_the_steps_of_a_sequence(layer: str) -> None:
    head = {f"torch.nn:{layer}": {"nhead": 2, "dropout": 0} if "Trans" in layer else {"hidden_size": 3}}
    spec: dict[str, Any] = {"inputs": {"x": [5, 4]}, "heads": {"h": head}, "mapping": [{"from": "x", "head": "h"}]}
    model, x = graphmodel.compile(spec, seed=0), torch.randn(3, 5, 4)
    whole, first = (next(iter(model(each).values())) for each in (x, x[:1]))
    torch.testing.assert_close(whole[:1], first)
    with pytest.raises(CompileError, match="wants a sequence of tokens and the feature is N×4"):
        graphmodel.compile({**spec, "inputs": {"x": [4]}}, device="meta")


def test_equal_layers_on_one_feature_are_fused() -> None:
    heads = {f"h{i}": {"torch.nn:Linear": {"out_features": 5}} for i in range(12)}
    spec = {**IMAGES, "heads": heads, "mapping": {"images": {"flatten": list(heads)}}}
    fused = graphmodel.compile({**spec, "optimize": ["fuse_heads"]}, seed=0).eval()
    plain = graphmodel.compile({**spec, "optimize": False}, seed=0).eval()
    x = torch.randn(9, 3, 64, 96)
    assert "run_heads" in fused.code
    torch.testing.assert_close(fused(x), plain(x))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_class_has_parameters_or_a_reason(package: str) -> None:
    reasons = ("takes", "computes nothing itself", "is a lazy layer", "needs a module")
    usable, refused = [], []
    for name in classes(package):
        try:
            usable.append(find_layer(f"{package}:{name}"))
        except InvalidLayer as error:
            refused.append(str(error))
    assert len(usable) > 2
    assert all(
        entry.params.model_json_schema()["properties"] is not None for entry in usable if entry.params.model_fields
    )
    assert [text for text in refused if not any(reason in text for reason in reasons)] == []


N = Batch(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "values", "shape", "width"),
    [
        ("torch.nn:Conv1d", {"out_channels": 2, "kernel_size": 1}, (N, 5, 7), ("in_channels", 5)),
        ("torch.nn:Linear", {"out_features": 2}, (N, 5, 7), ("in_features", 7)),
        ("torch.nn:LayerNorm", {}, (N, 5, 7), ("normalized_shape", 7)),
        ("torch.nn:LayerNorm", {"normalized_shape": [5, 7]}, (N, 5, 7), ("normalized_shape", [5, 7])),
        ("torch.nn:GroupNorm", {"num_groups": 1}, (N, 8, 3, 3), ("num_channels", 8)),
        ("torch.nn:TransformerEncoderLayer", {"nhead": 1}, (N, 5, 8), ("d_model", 8)),
        ("torchvision.ops:MLP", {"hidden_channels": [3]}, (N, 5, 8), ("in_channels", 8)),
        ("timm.layers:AttentionPoolLatent", {}, (N, 5, 8), ("in_features", 8)),
        ("timm.layers:LayerScale", {}, (N, 5, 8), ("dim", 8)),
        (f"{SEGMENTATION}:FCNHead", {"channels": 3}, (N, 8, 3, 3), ("channels", 3)),
    ],
)
def test_widths_are_inferred(layer: str, values: dict[str, Any], shape: Any, width: tuple[str, Any]) -> None:
    inferred = find_layer(layer).params(**values).infer(TensorInfo(shape))
    assert getattr(inferred, width[0]) == width[1]


def conv(**values: Any) -> dict[str, Any]:
    return {"torch.nn:Conv2d": {"out_channels": 4, "kernel_size": 1, **values}}


def encoder(layer: Any) -> dict[str, Any]:
    return {"torch.nn:TransformerEncoder": {"num_layers": 2, "encoder_layer": layer}}


@pytest.mark.parametrize(
    ("head", "code", "texts"),
    [
        ("torch.nn:Conv2", "GM206", ["`torch.nn` has no layer `Conv2`", "did you mean `Conv2d`"]),
        ("torch.nn:functional", "GM206", ["is not an `nn.Module` class"]),
        ("torch.mm:Conv2d", "GM206", ["`torch.mm` is not a package whose layers can be heads", "`torch.nn`"]),
        ("os:system", "GM206", ["`os` is not a package", "torchvision.ops", "timm.layers", "--import MODULE"]),
        ("torch.nn:modules.Conv2d", "GM206", ["has no layer"]),
        ("torch.nn:CrossEntropyLoss", "GM206", ["takes 2 values (`input`, `target`)"]),
        ("torch.nn:Sequential", "GM206", ["write a list of them"]),
        ("torch.nn:LazyLinear", "GM206", ["write `torch.nn:Linear`"]),
        ({"torch.nn:TransformerEncoder": {"num_layers": 2}}, "GM203", ["missing key `encoder_layer`"]),
        (
            encoder("torch.nn:Linear"),
            "GM202",
            ["is not a `TransformerEncoderLayer`", "torch.nn:TransformerEncoderLayer"],
        ),
        (encoder("os:system"), "GM202", ["`os` is not a package"]),
        (encoder({"torch.nn:TransformerEncoderLayer": {"nhed": 2}}), "GM202", ["`nhed`", "did you mean `nhead`"]),
        (encoder({"torch.nn:TransformerEncoderLayer": {"nhead": 8}}), "GM304", ["wants a sequence of tokens", "nlc"]),
        ("timm.layers:SqueezeExcite", "GM206", ["is another name of `SEModule`", "write `timm.layers:SEModule`"]),
        ("torch.nn:Softmax", "GM203", ["missing key `dim`"]),
        ({"torch.nn:GRU": {"hidden_size": 4, "batch_first": False}}, "GM202", ["the batch first", "leave it out"]),
        ({"torch.nn:Linear": {"out_features": 4}}, "GM304", ["wants vectors or tokens", "pool and flatten it", "nlc"]),
        ("torch.nn:BatchNorm1d", "GM304", ["cannot read `images.res5`", "for tokens write `layout: nlc`"]),
        ({"torch.nn:Conv2d": {"kernel_size": 1}}, "GM203", ["missing key `out_channels`"]),
        (conv(paddng=1), "GM201", ["unknown key `paddng`", "did you mean `padding`"]),
        (conv(bias=3), "GM202", ["bias"]),
        (conv(kernel_size="3"), "GM202", ["kernel_size"]),
        (conv(groups=True), "GM202", ["groups"]),
        ({"torch.nn:GRU": {"hidden_size": 4, "num_layers": 10**9}}, "GM202", ["less than or equal to 1000"]),
        (conv(in_channels=9), "GM304", ["wants 9 features", "which has 512"]),
        (conv(groups=3), "GM304", ["cannot be built: ValueError", "divisible by groups"]),
        (conv(kernel_size=99), "GM304", ["cannot read `images.res5`", "Kernel size can't be greater"]),
        ({"timm.layers:Mlp": {"act_layer": "torch.nn:Relu"}}, "GM202", ["did you mean `ReLU`"]),
        ({"timm.layers:Mlp": {"norm_layer": "os:system"}}, "GM202", ["`os` is not a package"]),
    ],
)
def test_what_is_wrong_with_a_layer_is_said_at_its_line(head: Any, code: str, texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    name, values = (head, {}) if isinstance(head, str) else next(iter(head.items()))
    lines = ["inputs: {images: [3, 64, 64]}", "trunk: {name: resnet, depth: 18}", "heads:", "  h:"]
    lines += [
        f"    {name}: {values}".replace("'", '"').replace("True", "true").replace("False", "false"),
        "mapping: {images: {res5: h}}",
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(path, device="meta")
    assert [d.code for d in caught.value.diagnostics] == [code]
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert span.line == 5
    assert all(text in str(caught.value) for text in texts), str(caught.value)


def test_all_errors_of_all_layers_come_at_once() -> None:
    heads = {"a": conv(bias=3, paddng=1), "b": "torch.nn:Conv2", "c": "os:system"}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile({**IMAGES, "heads": heads, "mapping": {"images": {"res5": list(heads)}}}, device="meta")
    assert sorted(d.code for d in caught.value.diagnostics) == ["GM201", "GM202", "GM206", "GM206"]


def test_a_layer_that_reads_a_dict_names_what_is_missing() -> None:
    head = {f"{SEGMENTATION}:LRASPPHead": {"num_classes": 3, "inter_channels": 8}}
    edge = {"from": [{"from": "images.res3", "as": "low"}, "images.res5"], "head": "h"}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile({**IMAGES, "heads": {"h": head}, "mapping": [edge]}, device="meta")
    assert [d.code for d in caught.value.diagnostics] == ["GM304"]
    assert "reads a feature `high`" in str(caught.value)


@pytest.mark.slow
def test_a_refused_package_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("raise SystemExit('imported')\n")
    program = (
        "import graphmodel, sys\n"
        "spec = {'inputs': {'x': [4]}, 'heads': {'h': 'theirs:Head'}, 'mapping': [{'from': 'x', 'head': 'h'}]}\n"
        "try:\n    graphmodel.compile(spec)\nexcept graphmodel.CompileError as error:\n    print(error)\n"
        "assert 'theirs' not in sys.modules and 'timm' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "`theirs` is not a package" in run.stdout


@pytest.mark.slow
def test_exported_and_standalone_models_have_them(model: Any, tmp_path: Path) -> None:
    model.eval()
    x = torch.randn(3, 3, 64, 96)
    expected = model(x)
    program = torch.export.export(model, (x,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=2)}})
    torch.testing.assert_close(program.module()(x[:2]), model(x[:2]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
    assert all(torch.equal(compiled[name], value) for name, value in expected.items())
    graphmodel.save(model, tmp_path / "model", standalone=True)
    torch.save({"x": x, "expected": expected}, tmp_path / "tensors.pt")
    program_text = (
        "import sys, torch\nfrom model import Model\n"
        "data = torch.load('../tensors.pt')\nfound = Model.load().eval()(data['x'])\n"
        "torch.testing.assert_close(found, data['expected'])  # another process may have another number of threads\n"
        "assert not any(name.startswith('graphmodel') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program_text], cwd=tmp_path / "model", check=True)
