"""Files never run code, and nothing connects unless it was asked to: every path from a spec to a loader."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel import CompileError
from graphmodel.components.library.guard import ConnectionRefused, offline, only_weights, without_connection

HEADS = {"x": {"mlp": {"dims": ["auto", 2]}}}


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(params=["zip", "legacy", "pickle"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with a payload, in each of the formats that `torch.load` reads, and the file that it would write."""
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    data = {"state_dict": {"conv1.weight": torch.zeros(1)}, "payload": Payload(marker)}
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(data))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=request.param == "zip")
    return path, marker


def spec(trunk: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {"images": [3, 64, 64]}, "trunk": trunk, "heads": HEADS}


TRUNKS = {
    "timm, pretrained": lambda file: {"name": "timm:test_resnet", "pretrained": file},
    "timm, checkpoint_path": lambda file: {"name": "timm:test_resnet", "checkpoint_path": file},
    "timm, pretrained_cfg": lambda file: {
        "name": "timm:test_resnet", "pretrained": True, "pretrained_cfg": {"file": file},
    },
    "timm, overlay": lambda file: {
        "name": "timm:test_resnet", "pretrained": True, "pretrained_cfg_overlay": {"file": file},
    },
    "timm, naflexvit": lambda file: {
        "name": "timm:test_vit", "pretrained": True, "pretrained_cfg_overlay": {"file": file, "custom_load": True},
    },
    "torchvision": lambda file: {"name": "torchvision:resnet18", "pretrained": file},
    "our own": lambda file: {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "pretrained": file},
}  # fmt: skip


@pytest.mark.parametrize("path", TRUNKS)
def test_no_file_of_a_spec_runs_code(path: str, evil: tuple[Path, Path]) -> None:
    file, marker = evil
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec(TRUNKS[path](str(file))), seed=0)
    assert len(caught.value.diagnostics) == 1
    assert not marker.exists()


def test_a_local_directory_of_timm_runs_no_code(evil: tuple[Path, Path], tmp_path: Path) -> None:
    file, marker = evil
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "test_resnet", "pretrained_cfg": {}}')
    (folder / "pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(CompileError):
        graphmodel.compile(spec({"name": f"timm:local-dir:{folder}", "pretrained": True}), seed=0)
    assert not marker.exists()


def test_a_callers_own_loads_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"path": Path("x")}, path)
    with only_weights(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert torch.load(path, weights_only=False) == {"path": Path("x")}


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every attempt to connect or to look up a host; none succeeds, as on a machine without a network."""
    attempts: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        attempts.append(args)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


WITHOUT_REQUEST = [
    {"name": "timm:hf-hub:timm/resnet18.a1_in1k"},
    {"name": "timm:hf_hub:somebody/model", "pretrained": True},
    {"name": "torchvision:fcn_resnet50", "weights_backbone": "DEFAULT"},
    {"name": "torchvision:fcn_resnet50", "pretrained_backbone": True},
    {"name": "torchvision:resnet18", "weights": "DEFAULT"},
    {"name": "timm:resnet18", "pretrained": True, "pretrained_cfg": {"url": "https://example.com/a.pth"}},
    {"name": "timm:resnet18", "pretrained": True, "pretrained_cfg_overlay": {"hf_hub_id": "somebody/model"}},
]


@pytest.mark.parametrize("trunk", WITHOUT_REQUEST, ids=str)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_no_connection_is_opened_unless_asked_for(trunk: dict[str, Any], device: str, connections: list[Any]) -> None:
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec(trunk), device=device)
    assert len(caught.value.diagnostics) == 1
    assert caught.value.diagnostics[0].help
    assert not connections


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_check_of_published_weights_opens_no_connection(name: str, connections: list[Any]) -> None:
    graphmodel.compile(spec({"name": name, "pretrained": True}), device="meta")
    assert not connections


SOURCES = {
    "timm:resnet18": "https://huggingface.co/timm/resnet18.a1_in1k",
    "torchvision:resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}


@pytest.mark.parametrize("name", SOURCES)
def test_weights_that_cannot_be_downloaded_are_one_finding(
    name: str, connections: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec({"name": name, "pretrained": True}), seed=0)
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM510"
    assert f"cannot be downloaded from {SOURCES[name]}" in finding.message
    assert "pretrained: FILE" in finding.help
    assert len(connections) == 1, "nothing is tried again"


def test_weights_in_the_cache_of_the_hub_are_used_without_a_connection(
    connections: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from safetensors.torch import save_file

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    published = timm.create_model("test_resnet").state_dict()
    save_file(published, snapshot / "model.safetensors")
    model = graphmodel.compile(spec({"name": "timm:test_resnet", "pretrained": True}), seed=0)
    assert not connections
    for name, value in model.trunk.state_dict().items():
        assert torch.equal(value, published[name]), name


def test_a_second_attempt_draws_the_same_numbers() -> None:
    def refused() -> torch.Tensor:
        torch.rand(3)
        raise ConnectionRefused("no")

    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    assert without_connection(refused) is None
    assert torch.equal(torch.rand(3), want)
    with pytest.raises(ZeroDivisionError):
        without_connection(lambda: 1 / 0)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_checkpoint_path_that_is_not_a_file_is_found_before_anything_is_built(
    device: str, connections: list[Any]
) -> None:
    trunk = {"name": "timm:test_resnet", "checkpoint_path": "https://example.com/a.pth"}
    with pytest.raises(CompileError, match="no such file: https://example") as caught:
        graphmodel.compile(spec(trunk), device=device)
    assert len(caught.value.diagnostics) == 1
    assert not connections


def test_foreign_sources_are_fetched_if_allowed(connections: list[Any]) -> None:
    trunk = {"name": "timm:resnet18", "pretrained": True, "pretrained_cfg": {"url": "https://example.com/a.pth"}}
    with pytest.raises(CompileError, match="cannot be downloaded"):
        graphmodel.compile(spec(trunk), seed=0, allow_downloads=True)
    assert connections


def test_other_threads_may_connect() -> None:
    found: list[Any] = []
    with offline():
        with pytest.raises(ConnectionRefused):
            socket.getaddrinfo("localhost", 80)
        thread = threading.Thread(target=lambda: found.append(socket.getaddrinfo("127.0.0.1", 80)))
        thread.start()
        thread.join()
    assert found
    assert socket.getaddrinfo("127.0.0.1", 80)
