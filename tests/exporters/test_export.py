"""Exported files give the module's numbers under the spec's names, at every batch size."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel import exporters
from tests.cli.conftest import Run, run  # noqa: F401

SPEC: dict[str, Any] = {
    "name": "several",
    "inputs": {
        "images": [3, 32, 32],
        "patches": [3, 32, 32],
        "crops": {"views": [{"count": 2, "shape": [3, 48, 48]}, {"shape": [3, 32, 32]}]},
    },
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {
        "label": {"mlp": {"dims": ["auto", 7]}},
        "jigsaw": [
            {"mlp": {"dims": ["auto", 6]}},
            {"siamese_concat_view": {"num_towers": 9}},
            {"mlp": {"dims": ["auto", 5]}},
        ],
        "swav": {"swav_head": {"dims": ["auto", 16, 8], "use_bn": True, "num_clusters": [11]}},
    },
    "mapping": {
        "images": {"flatten": "label", "res3": None},
        "patches": {"flatten": "jigsaw"},
        "crops": {"flatten": "swav"},
    },
}


@pytest.fixture(scope="module")
def module() -> graphmodel.CompiledModel:
    made = graphmodel.compile(SPEC, seed=0)
    made(*arguments(4))  # running statistics that are not those of a fresh module
    return made


def arguments(batch: int) -> list[Any]:
    torch.manual_seed(batch)
    crops = [torch.randn(batch + 2, 3, size, size) for size in (48, 48, 32)]
    return [torch.randn(batch, 3, 32, 32), torch.randn(9 * (batch + 1), 3, 32, 32), crops]


@pytest.mark.slow
def test_a_program_keeps_names_forms_modes_and_numbers(module: graphmodel.CompiledModel, tmp_path: Path) -> None:
    module.train()
    module.trunk.layer1.eval()
    report = graphmodel.export(module, tmp_path / "model.pt2")
    assert module.training
    assert not module.trunk.layer1.training
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    module.eval()
    for batch in (1, 3, 6):
        args = arguments(batch)
        with torch.no_grad():
            found, expected = loaded(*args), module(*args)
        assert list(found) == list(expected) == report.outputs
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    images, patches, crops = arguments(3)
    wider = torch.cat([images, images], -1)
    module(wider, patches, crops)  # the module itself follows the size
    others = [
        (wider, patches, crops),
        (torch.cat([images, images], 1), patches, crops),
        (images, patches, crops[:2]),
        (images, patches, [*crops, crops[2]]),
        (images, patches, [crops[0], crops[1], crops[0]]),
    ]
    for args in others:
        with pytest.raises((AssertionError, ValueError, RuntimeError), match=r"Guard failed|tree spec"):
            loaded(*args)


@pytest.mark.slow
def test_a_program_in_training_mode_trains_the_same(tmp_path: Path) -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    heads = {"label": {"mlp": {"dims": ["auto", 8, 3], "use_bn": True}}}
    model = graphmodel.compile({**spec, "heads": heads, "freeze": ["trunk.conv1", "trunk.bn1"]}, seed=0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    graphmodel.export(model, tmp_path / "model.pt2", training=True)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    x = torch.randn(4, 3, 32, 32)
    for each in (loaded, model):
        each(x)["label"].square().mean().backward()
    theirs = dict(loaded.named_parameters())
    for name, parameter in model.named_parameters():
        assert (theirs[name].grad is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(dict(loaded.named_buffers())[name], buffer)


@pytest.mark.slow
@pytest.mark.parametrize("returns", ["tuple", "list", "tensor"])
def test_every_form_of_the_result(returns: str, tmp_path: Path) -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "returns": returns,
    }
    model = graphmodel.compile(spec, seed=0).eval()
    report = graphmodel.export(model, tmp_path / "model.pt2")
    assert report.outputs == ["features"]
    x = torch.randn(1, 3, 32, 32)
    found, expected = torch.export.load(tmp_path / "model.pt2").module()(x), model(x)
    assert isinstance(found, type(expected))
    assert torch.equal(found if returns == "tensor" else found[0], expected if returns == "tensor" else expected[0])


@pytest.mark.slow
def test_an_onnx_file_keeps_names_and_numbers(module: graphmodel.CompiledModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    report = graphmodel.export(module, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    shapes = {item.name: item.shape for item in session.get_inputs()}
    assert shapes["images"] == ["images_batch", 3, 32, 32]
    assert shapes["patches"] == ["9*patches_batch", 3, 32, 32]
    assert list(shapes) == ["images", "patches", "crops_0", "crops_1", "crops_2"]
    assert shapes == report.inputs
    assert [item.name for item in session.get_outputs()] == report.outputs
    module.eval()
    for batch in (1, 3):
        images, patches, crops = arguments(batch)
        given = {"images": images, "patches": patches} | {f"crops_{i}": crop for i, crop in enumerate(crops)}
        with torch.no_grad():
            expected = module(images, patches, crops)
        found = session.run(None, {name: value.numpy() for name, value in given.items()})
        for value, name in zip(found, report.outputs, strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected[name], rtol=1e-3, atol=1e-4)
    others = {"images": images.repeat(1, 1, 1, 2), "patches": patches.double(), "crops_2": crops[0]}
    for name, value in others.items():
        with pytest.raises(Exception, match=rf"INVALID_ARGUMENT.*(input: {name}|Unexpected input data type)"):
            session.run(None, {key: t.numpy() for key, t in (given | {name: value}).items()})


@pytest.mark.slow
def test_a_package_of_aotinductor_gives_the_numbers(tmp_path: Path) -> None:
    spec = {
        "inputs": {"images": [3, 16, 16]},
        "trunk": {
            "name": "vision_transformer",
            "image_size": 16,
            "patch_size": 8,
            "num_layers": 1,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 32,
        },
    }
    model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 3]}}}}, seed=0).eval()
    report = graphmodel.export(model, tmp_path / "model.pt2", to="aoti")
    loaded = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    for batch in (1, 40, 4):  # from 16 rows on, torch has another kernel for convolutions
        x = torch.randn(batch, 3, 16, 16)
        torch.testing.assert_close(loaded(x)["label"], model(x)["label"], rtol=1e-4, atol=1e-5)
    assert report.difference < 1e-4
    # The strides of one image alone mean nothing: this one is as contiguous as any.
    one = torch.as_strided(x, (1, 3, 16, 16), (7, 256, 16, 1))
    torch.testing.assert_close(loaded(one)["label"], model(one)["label"], rtol=1e-4, atol=1e-5)
    channels_last = x.to(memory_format=torch.channels_last)
    for other in (x.repeat(1, 1, 1, 2), x.repeat(1, 2, 1, 1), x[..., :8].contiguous(), x.double(), channels_last):
        with pytest.raises(RuntimeError):
            loaded(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trunk",
    [
        "timm:vit_tiny_patch16_224",
        "timm:convnext_atto",
        "timm:swin_tiny_patch4_window7_224",
        "torchvision:regnet_y_400mf",
        "torchvision:mobilenet_v3_small",
        "timm:efficientnet_b0",
    ],
)
def test_trunks_of_every_library(trunk: str, tmp_path: Path) -> None:
    size = 224 if "224" in trunk else 64
    model = graphmodel.compile({"inputs": {"images": [3, size, size]}, "trunk": trunk}, seed=0)
    report = graphmodel.export(model, tmp_path / "model.pt2")
    assert report.difference < 1e-5
    assert report.batches == [1, 2, 5]


LAYERS: dict[str, Any] = {
    "lstm": {"torch.nn:LSTM": {"hidden_size": 8, "batch_first": True}},
    "transformer": {"torch.nn:TransformerEncoderLayer": {"nhead": 2, "dim_feedforward": 16, "batch_first": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", list(LAYERS))
def test_layers_that_ask_for_the_number_of_rows_serve_a_single_one(layer: str, tmp_path: Path) -> None:
    embedding = {"torch.nn:Embedding": {"num_embeddings": 50, "embedding_dim": 16}}
    spec = {"inputs": {"tokens": {"shape": [12], "dtype": "int64"}}, "heads": {"head": [embedding, LAYERS[layer]]}}
    model = graphmodel.compile({**spec, "mapping": [{"from": "tokens", "head": "head"}]}, seed=0).eval()
    report = graphmodel.export(model, tmp_path / "model.pt2")
    assert report.batches == [1, 2, 5]
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 4):
        tokens = torch.randint(50, (batch, 12))
        torch.testing.assert_close(loaded(tokens), model(tokens))


@pytest.mark.slow
def test_heads_that_run_as_one_serve_a_single_image(tmp_path: Path) -> None:
    heads = {f"head{i}": {"mlp": {"dims": ["auto", 4]}} for i in range(14)}
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": heads,
    }
    model = graphmodel.compile(spec, seed=0)
    assert "fuse_heads" in model.passes
    assert graphmodel.export(model, tmp_path / "model.pt2").batches == [1, 2, 5]


@pytest.mark.parametrize(
    "suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)]
)  # fmt: skip
def test_batchnorm_is_folded_if_asked_for(suffix: str, tmp_path: Path) -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    model = graphmodel.compile({**spec, "freeze": ["trunk.conv1", "trunk.bn1"]}, seed=0)
    model(torch.randn(4, 3, 32, 32))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = graphmodel.export(model, tmp_path / f"model{suffix}", fold=True)
    assert report.difference < 1e-5
    assert model.training
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    if suffix == ".pt2":
        program = torch.export.load(tmp_path / "model.pt2")
        assert not [name for name in program.state_dict if "running" in name]
        assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            found, expected = program.module()(x), model.eval()(x)
        torch.testing.assert_close(found["features"], expected["features"], rtol=1e-4, atol=1e-5)


def wrong_numbers(path: Path) -> Any:
    return lambda args: [torch.zeros(args[0].shape[0], 128)]


def test_a_file_with_other_numbers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphmodel.compile(
        {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}, seed=0
    )
    (tmp_path / "model.pt2").write_text("the old file")
    fake = exporters.Format("pt2", ".pt2", lambda program, path: path.write_text("new"), wrong_numbers)
    monkeypatch.setattr(exporters, "find_format", lambda file, to: fake)
    with pytest.raises(graphmodel.CompileError) as caught:
        exporters.export(model, tmp_path / "model.pt2")
    assert [d.code for d in caught.value.diagnostics] == ["GM583"]
    assert (tmp_path / "model.pt2").read_text() == "the old file"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize(
    ("file", "options", "code", "text"),
    [
        ("model.bin", {}, "GM580", "no export format has the suffix `.bin`"),
        ("model.pt2", {"to": "onx"}, "GM580", "`onx` is not a valid export format"),
        ("model.onnx", {"to": "pt2"}, "GM580", "ends in `.pt2`"),
        ("model.onnx", {"training": True}, "GM580", "eval mode only"),
        ("model.pt2", {"training": True, "fold": True}, "GM580", "for the eval mode only"),
    ],
)
def test_what_cannot_be_asked_for(file: str, options: Any, code: str, text: str, tmp_path: Path) -> None:
    model = graphmodel.compile(
        {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}},
        device="meta",
    )
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.export(model, tmp_path / file, **options)
    [found] = caught.value.diagnostics
    assert found.code == code
    assert text in found.message
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphmodel.compile(
        {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}},
        device="meta",
    )
    with pytest.raises(graphmodel.CompileError, match="no weights"):
        graphmodel.export(model, tmp_path / "model.pt2")
    monkeypatch.setattr(exporters, "find_spec", lambda name: None)
    with pytest.raises(graphmodel.CompileError, match=r"pip install 'graphmodel\[export\]'"):
        graphmodel.export(model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_command_exports_specs_and_saved_models(tmp_path: Path, run: Run) -> None:  # noqa: F811
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "inputs: {images: [3, 32, 32]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\nheads: {label: {mlp: {dims: [auto, 3]}}}\n"
    )
    result = run("export", spec, "-o", tmp_path / "a.pt2", "--seed", "3")
    assert "images [batch, 3, 32, 32]" in result.stdout
    model = graphmodel.compile(spec, seed=3)
    graphmodel.save(model, tmp_path / "saved")
    result = run("export", tmp_path / "saved", "-o", tmp_path / "b.pt2", "--format", "json")
    assert json.loads(result.stdout)["outputs"] == ["label"]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()(x)["label"]
    for name in ("a.pt2", "b.pt2"):
        assert torch.export.load(tmp_path / name).module()(x)["label"].allclose(expected, atol=1e-6)
    run("export", spec, "-o", tmp_path / "a.zip", code=2)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.pt2", "model.onnx"])
def test_a_file_that_does_not_fit_on_the_disk_is_one_diagnostic(file: str, tmp_path: Path) -> None:
    spec = {"inputs": {"images": [3, 16, 16]}, "trunk": "given", "mapping": [{"from": "images.output", "as": "out"}]}
    model = graphmodel.compile(spec, trunks={"trunk": torch.nn.Sequential(torch.nn.Conv2d(3, 64, 9))}).eval()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, limits[1]))
    try:
        with pytest.raises(graphmodel.CompileError, match="GM520"):
            graphmodel.export(model, tmp_path / file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
