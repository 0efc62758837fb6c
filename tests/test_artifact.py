"""Saved models come back as they were, or not at all."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import random
import resource
import signal
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError

X = torch.randn(2, 3, 32, 32)
WEIGHTS, LOCK, MODEL = "weights.safetensors", "spec.lock.yaml", "model.py"
GRAPH, MANIFEST = "graph.json", "manifest.json"


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A trunk that is quickly built and written: its first stages alone."""
    return {
        "name": "tiny",
        "inputs": {"images": {"shape": [3, 32, 32]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"head": {"mlp": {"dims": ["auto", 4]}}},
        "mapping": {"images": {"res2": {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "heads": ["head"]}}},
    }


def codes(caught: pytest.ExceptionInfo[CompileError]) -> list[str]:
    return [d.code for d in caught.value.diagnostics]


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


def test_every_byte_of_the_weights_is_covered(tiny: dict[str, Any], tmp_path: Path) -> None:
    from graphmodel.weights.sealed import check_seal

    model = graphmodel.compile(tiny, seed=0)
    graphmodel.save(model, tmp_path / "out")
    file = tmp_path / "out" / WEIGHTS
    good = file.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    places = {*range(0, header, 61), *range(8), header - 1, header, len(good) // 2, len(good) - 1}
    places |= set(range(header, len(good), max(1, len(good) // 50)))
    for i in sorted(places):
        for value in {good[i] ^ 1, 0} - {good[i]}:
            file.write_bytes(good[:i] + bytes([value]) + good[i + 1 :])
            with pytest.raises(CompileError) as caught:
                check_seal(file, required=True)
            assert codes(caught) == ["GM522"], i
    for length in (0, 7, 8, 100, header, len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(CompileError) as caught:
            graphmodel.load(tmp_path / "out")
        assert codes(caught) == ["GM522"], length
    file.write_bytes(good + b"\0")
    with pytest.raises(CompileError):
        graphmodel.load(tmp_path / "out")
    file.write_bytes(good)
    assert equal(graphmodel.load(tmp_path / "out"), model)


def test_damaged_weights_are_found_by_load_weights_too(tiny: dict[str, Any], tmp_path: Path) -> None:
    graphmodel.save(graphmodel.compile(tiny, seed=0), tmp_path / "out")
    file = tmp_path / "out" / WEIGHTS
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    model = graphmodel.compile(tiny, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompileError) as caught:
        graphmodel.load_weights(model, file)
    assert codes(caught) == ["GM522"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("missing", [WEIGHTS, LOCK, "all"])
def test_a_missing_file_is_one_diagnostic(tiny: dict[str, Any], tmp_path: Path, missing: str) -> None:
    graphmodel.save(graphmodel.compile(tiny, seed=0), tmp_path / "out")
    if missing == "all":
        tmp_path = tmp_path / "elsewhere"
    else:
        (tmp_path / "out" / missing).unlink()
    with pytest.raises(CompileError) as caught:
        graphmodel.load(tmp_path / "out")
    assert codes(caught) == ["GM522"]


def test_a_model_saved_without_weights_has_none_to_load(tiny: dict[str, Any], tmp_path: Path) -> None:
    graphmodel.save(graphmodel.compile(tiny, device="meta"), tmp_path / "out", weights=False)
    with pytest.raises(CompileError, match=r"there is no .*weights\.safetensors") as caught:
        graphmodel.load(tmp_path / "out", device="meta")
    assert "`weights=False`" in caught.value.diagnostics[0].help


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.lock.yaml", "manifest.json"])
def test_a_fifo_in_the_place_of_a_file_is_refused_at_once(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    graphmodel.save(graphmodel.compile(tiny, seed=0), tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    os.mkfifo(tmp_path / "m" / name)
    with pytest.raises(CompileError, match=r"GM522.*is a FIFO"):
        graphmodel.load(tmp_path / "m")


def test_a_reader_never_mixes_two_models(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is replaced after each file that is read, as by another process."""
    from graphmodel.weights import sealed

    models = [graphmodel.compile({**tiny, "name": name}, seed=seed) for seed, name in enumerate(("one", "two"))]
    graphmodel.save(models[0], tmp_path / "m")
    plain = sealed.read_sealed
    left = [models[1], models[0]]

    def read(path: Path) -> Any:
        found = plain(path)
        if left:
            graphmodel.save(left.pop(0), tmp_path / "m")
        return found

    monkeypatch.setattr(sealed, "read_sealed", read)
    again = graphmodel.load(tmp_path / "m")
    assert again.model_graph.spec.name == "one"
    assert equal(again, models[0])


def test_a_full_disk_leaves_the_old_model(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile(tiny, seed=0)
    graphmodel.save(model, tmp_path / "m")
    before = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(CompileError, match=r"GM520.*File too large"):
            graphmodel.save(model, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_weights_of_another_model_do_not_fit(tiny: dict[str, Any], tmp_path: Path) -> None:
    graphmodel.save(graphmodel.compile(tiny, seed=0), tmp_path / "one")
    wider = {**tiny, "heads": {"head": {"mlp": {"dims": ["auto", 5]}}}}
    graphmodel.save(graphmodel.compile(wider, seed=0), tmp_path / "two")
    (tmp_path / "two" / WEIGHTS).replace(tmp_path / "one" / WEIGHTS)
    with pytest.raises(CompileError, match="its checksum differs"):
        graphmodel.load(tmp_path / "one")
    (tmp_path / "one" / MANIFEST).unlink()
    with pytest.raises(CompileError, match=r"bias` has the shape 5 and not 4 \(and 1 more\)") as caught:
        graphmodel.load(tmp_path / "one")
    assert codes(caught) == ["GM522"]


def test_the_manifest_names_every_file_and_its_checksum(tiny: dict[str, Any], tmp_path: Path) -> None:
    files = graphmodel.save(graphmodel.compile(tiny, seed=0), tmp_path / "out")
    assert {file.name for file in files} == {file.name for file in (tmp_path / "out").iterdir()}
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["format"], manifest["format_version"], manifest["standalone"]) == ("graphmodel", 1, False)
    assert manifest["versions"]["torch"] == version("torch")
    assert set(manifest["files"]) == {file.name for file in files} - {MANIFEST}
    for name, entry in manifest["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_an_edited_spec_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    graphmodel.save(graphmodel.compile(tiny, device="meta"), tmp_path / "out", weights=False)
    lock = tmp_path / "out" / LOCK
    lock.write_text(lock.read_text().replace("depth: 18", "depth: 34"))
    with pytest.raises(CompileError, match="its checksum differs") as caught:
        graphmodel.load(tmp_path / "out", device="meta", weights=False)
    assert codes(caught) == ["GM522"]
    assert "to use an edited spec, compile it" in caught.value.diagnostics[0].help


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ('{"format": "graphmodel", "format_version": 2, "files": {}, "versions": {"graphmodel": "9.1"}}', "GM523", "9.1"),
        ('{"format": "other", "format_version": 1, "files": {}}', "GM522", "not a valid manifest"),
        ('{"format": "graphmodel", "format_version": 1}', "GM522", "there is no 'files'"),
        ('{"format": "graphmodel", "format_version": 1, "files": {}}', "GM522", "does not list it"),
        ("[]", "GM522", "not a valid manifest"),
        ("{", "GM522", "not a valid manifest"),
    ],
)  # fmt: skip
def test_another_manifest_is_refused(tiny: dict[str, Any], tmp_path: Path, content: str, code: str, text: str) -> None:
    graphmodel.save(graphmodel.compile(tiny, device="meta"), tmp_path / "out", weights=False)
    (tmp_path / "out" / MANIFEST).write_text(content)
    with pytest.raises(CompileError) as caught:
        graphmodel.load(tmp_path / "out", device="meta", weights=False)
    [found] = caught.value.diagnostics
    assert found.code == code
    assert text in f"{found.message} {found.help}"


def test_a_directory_of_the_format_without_a_manifest_loads(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile(tiny, seed=0)
    graphmodel.save(model, tmp_path / "out")
    (tmp_path / "out" / MANIFEST).unlink()
    (tmp_path / "out" / GRAPH).unlink()
    assert equal(graphmodel.load(tmp_path / "out"), model)


def test_a_moved_and_read_only_directory_loads(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile(tiny, seed=0)
    graphmodel.save(model, tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "é moved")
    for file in moved.iterdir():
        file.chmod(0o444)
    moved.chmod(0o555)
    try:
        assert equal(graphmodel.load(moved), model)
    finally:
        moved.chmod(0o755)


def test_the_graph_file_holds_every_call(two_inputs: dict[str, Any], tmp_path: Path) -> None:
    module = graphmodel.compile(two_inputs, device="meta")
    graphmodel.save(module, tmp_path / "out", weights=False)
    document = json.loads((tmp_path / "out" / GRAPH).read_text())
    graph = module.model_graph
    assert [node["name"] for node in document["nodes"]] == list(graph.nodes)
    assert [(e["from"], e["to"], e["port"]) for e in document["edges"]] == [
        (source, name, port) for name, node in graph.nodes.items() for port, source in enumerate(node.refs())
    ]
    assert [output["name"] for output in document["outputs"]] == list(module(*map(two_images, graph.inputs)))
    nodes = {node["name"]: node for node in document["nodes"]}
    assert nodes["images_layer1"]["target"] == nodes["patches_layer1"]["target"] == "trunk.layer1"
    assert nodes["images_layer1"]["tensors"] == [{"shape": ["N", 16, 16, 16], "dtype": "float32"}]
    assert document["passes"]["optimizations"] == list(module.passes)


def two_images(name: str) -> torch.Tensor:
    return torch.zeros(18 if name == "patches" else 2, 3, 64, 64, device="meta")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_leaves_one_of_the_two_models(tiny: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL at random moments of saves that replace one model by another."""
    torch.set_num_threads(1)
    models = [graphmodel.compile(tiny, seed=seed) for seed in (0, 1)]
    graphmodel.save(models[0], tmp_path / "out")
    draw, leftovers, seen = random.Random(0), 0, set()
    for _ in range(40):
        child = os.fork()
        if child == 0:
            for i in range(100):
                graphmodel.save(models[i % 2], tmp_path / "out")
            os._exit(0)
        time.sleep(draw.uniform(0.0, 1.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = graphmodel.load(tmp_path / "out")
        [found] = [i for i, model in enumerate(models) if equal(loaded, model)]
        seen.add(found)
        for left in tmp_path.glob(".out.*"):
            leftovers += 1
            with pytest.raises(CompileError, match="left behind by a write") as caught:
                graphmodel.load(left)
            assert codes(caught) == ["GM522"]
    assert leftovers
    graphmodel.save(models[0], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_come_back(tiny: dict[str, Any], tmp_path: Path, dtype: torch.dtype) -> None:
    model = graphmodel.compile(tiny, seed=0)
    model.trunk.to(dtype)
    graphmodel.save(model, tmp_path / "out")
    again = graphmodel.load(tmp_path / "out")
    assert equal(again, model)
    assert again.trunk.conv1.weight.dtype is dtype
    assert again.heads.head.clf[0].weight.dtype is torch.float32


def test_dtypes_of_buffers_that_are_not_saved_come_back(tmp_path: Path) -> None:
    spec = {
        "inputs": {"images": [3, 112, 112]},
        "trunk": {
            "name": "timm:swin_tiny_patch4_window7_224",
            "img_size": 112,
            "depths": [2, 2, 1, 1],
            "embed_dim": 24,
        },
    }
    model = graphmodel.compile({**spec, "mapping": {"images": {"layers.1": None}}}, seed=0).half()
    graphmodel.save(model, tmp_path / "out")
    again = graphmodel.load(tmp_path / "out")
    found = {n: b.dtype for n, b in again.named_buffers()}
    assert found == {n: b.dtype for n, b in model.named_buffers()}
    assert torch.float16 in found.values()


def test_frozen_parts_channels_last_and_ties_come_back(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile({**tiny, "freeze": ["trunk"]}, seed=0).to(memory_format=torch.channels_last)
    graphmodel.save(model, tmp_path / "out")
    again = graphmodel.load(tmp_path / "out").train()
    assert equal(again, model)
    assert not again.trunk.bn1.training
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.slow
def test_the_bytes_depend_on_the_model_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys, json, graphmodel\n"
        "graphmodel.save(graphmodel.compile(json.loads(sys.argv[1]), seed=0), sys.argv[2])\n"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", program, json.dumps(tiny), tmp_path / name], check=True)
    for file in (WEIGHTS, LOCK, MODEL, GRAPH, MANIFEST):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def edited(model: Any) -> None:
    next(n for n in model.graph.nodes if n.name == "layer1").target = "trunk.layer1.0"
    model.recompile()


def another_layer(model: Any) -> None:
    model.heads.head.clf[0] = nn.Linear(64, 7)


def an_adapter(model: Any) -> None:
    model.heads.head.clf[0] = nn.Sequential(model.heads.head.clf[0], nn.Linear(4, 4))


def a_module_more(model: Any) -> None:
    model.extra = nn.Linear(2, 2)


def a_sparse_weight(model: Any) -> None:
    model.heads.head.clf[0].weight = nn.Parameter(torch.eye(4, 64).to_sparse())


def no_weights(model: Any) -> None:
    model.to("meta")


@pytest.mark.parametrize(
    ("change", "code"),
    [(edited, "GM504"), (another_layer, "GM521"), (an_adapter, "GM521"), (a_module_more, "GM521"),
     (a_sparse_weight, "GM521"), (no_weights, "GM521")],
)  # fmt: skip
def test_what_could_not_be_loaded_again_is_not_written(
    tiny: dict[str, Any], tmp_path: Path, change: Any, code: str
) -> None:
    good = graphmodel.compile(tiny, seed=0)
    graphmodel.save(good, tmp_path / "out")
    model = graphmodel.compile(tiny, seed=1)
    change(model)
    with pytest.raises(CompileError) as caught:
        graphmodel.save(model, tmp_path / "out")
    assert codes(caught) == [code]
    assert equal(graphmodel.load(tmp_path / "out"), good), "the earlier result is whole"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_converted_norms_can_be_saved(tiny: dict[str, Any], tmp_path: Path) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(graphmodel.compile(tiny, seed=0))
    graphmodel.save(model, tmp_path / "out")
    assert equal(graphmodel.load(tmp_path / "out"), model)


def test_changes_that_are_not_saved_are_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphmodel.save(graphmodel.compile(tiny, seed=0).half(), tmp_path / "out")
    model = graphmodel.compile(tiny, seed=0)
    model.trunk.maxpool = nn.AvgPool2d(3, 2, 1)
    model.trunk.bn1.eps = 1.0
    model.trunk.layer1[0].relu.forward = torch.tanh
    model.heads.head.register_forward_hook(print)
    with pytest.warns(UserWarning, match="without changes made to the module") as caught:
        graphmodel.save(model, tmp_path / "out")
    message = str(caught[0].message)
    assert caught[0].filename == __file__
    for part in ("`trunk.maxpool` is AvgPool2d(", "and not MaxPool2d(", "eps=1.0", "the `forward` of", "has hooks"):
        assert part in message
    assert equal(graphmodel.load(tmp_path / "out"), model)


@pytest.mark.parametrize("checkpoint", [2, True])
def test_slices_and_checkpointed_models_come_back(tiny: dict[str, Any], tmp_path: Path, checkpoint: Any) -> None:
    spec = {**tiny, "checkpoint": checkpoint, "heads": {}, "mapping": {"images": {"res2": None, "res3": None}}}
    part = graphmodel.compile(spec, seed=0).slice(outputs=["res2"], returns="tensor")
    graphmodel.save(part, tmp_path / "out")
    again = graphmodel.load(tmp_path / "out")
    assert equal(again, part)
    assert "recompute(" in again.code
    assert torch.equal(again.eval()(X), part.eval()(X))


def test_a_slice_of_one_of_several_inputs_comes_back(two_inputs: dict[str, Any], tmp_path: Path) -> None:
    part = graphmodel.compile(two_inputs, seed=0).slice(outputs=["image"])
    graphmodel.save(part, tmp_path / "out")
    again = graphmodel.load(tmp_path / "out")
    assert equal(again, part)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(x)["image"], part.eval()(x)["image"])


NAMES = [
    'x"""\nraise SystemExit("owned")\n"""',
    "\\",
    "\\x",
    "\\N{x}",
    '"',
    '""""',
    "a\0b",
    "a\x1b[31mb",
    "\u202egnp.exe",
    "line\rbreak\u2028and\x85more",
    "é ★ ok",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_never_becomes_code(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    model = graphmodel.compile({**tiny, "name": name}, device="meta")
    graphmodel.save(model, tmp_path / "out", weights=False)
    source = (tmp_path / "out" / MODEL).read_bytes().decode("utf-8")
    tree = ast.parse(source)
    doc = ast.get_docstring(tree, clean=False)
    assert doc is not None
    assert doc.startswith(f"The model `{name}`, compiled by")
    assert [type(node).__name__ for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))] == [
        "Expr", "Assign", "FunctionDef", "FunctionDef",
    ]  # fmt: skip
    assert all(c.isprintable() or c == "\n" for c in source)
    spec = importlib.util.spec_from_file_location("model_of_test", tmp_path / "out" / MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.load(device="meta", weights=False).model_graph.spec.name == name


def test_a_file_name_never_ends_the_comment_of_the_lock(tiny: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "a\nname: other\n# .yaml"
    path.write_text(yaml.safe_dump(tiny))
    graphmodel.save(graphmodel.compile(path, device="meta"), tmp_path / "out", weights=False)
    assert graphmodel.load_spec(tmp_path / "out" / LOCK).name == "tiny"


@pytest.mark.parametrize("names", [["mlp; import os"], ["a\nimport os"]])
def test_imports_that_are_not_names_are_left_out(tiny: dict[str, Any], tmp_path: Path, names: list[str]) -> None:
    graphmodel.save(graphmodel.compile(tiny, device="meta"), tmp_path / "out", weights=False, imports=names)
    assert "import os" not in (tmp_path / "out" / MODEL).read_text()


def test_the_file_of_pretrained_weights_is_not_needed_again(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("test_resnet", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    trunk = {"name": "timm:test_resnet", "num_classes": 7, "pretrained": str(tmp_path / "net.pth")}
    module = graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunk": trunk}, seed=0)
    graphmodel.save(module, tmp_path / "model")
    graphmodel.save(module, tmp_path / "bare", weights=False)
    (tmp_path / "net.pth").unlink()
    assert graphmodel.diff(tmp_path / "model" / LOCK, module).same
    again = graphmodel.load(tmp_path / "model")
    assert torch.equal(again.trunk.conv1[0].weight, net.conv1[0].weight)
    assert equal(again, module)
    with pytest.raises(CompileError, match="no such file"):
        graphmodel.load(tmp_path / "bare", weights=False)


def test_weights_of_an_allowed_source_are_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    net = timm.create_model("test_resnet")
    file = tmp_path / "net-00000000.pth"
    torch.save(net.state_dict(), file)
    overlay = {"url": file.as_uri(), "hf_hub_id": ""}
    trunk = {"name": "timm:test_resnet", "pretrained": True, "pretrained_cfg_overlay": overlay}
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": trunk}
    with pytest.raises(CompileError, match="another source of weights"):
        graphmodel.compile(spec, seed=0)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: torch.load(file))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", lambda *_, **__: torch.load(file))
    module = graphmodel.compile(spec, seed=0, allow_downloads=True)
    assert torch.equal(module.trunk.conv1[0].weight, net.conv1[0].weight)
    graphmodel.save(module, tmp_path / "model")
    file.unlink()
    assert equal(graphmodel.load(tmp_path / "model"), module)
