"""What a checkpoint file may hold: plain data is read as inert values, and nothing is executed."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphmodel import CompileError
from graphmodel.weights.reading import read_checkpoint, state_dicts

DATA = {
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("/x")),
    "numpy_scalar": np.float64(3),
    "numpy_integer": np.int64(3),
    "numpy_dtype": np.dtype("f4"),
    "numpy_type": np.float32,
    "numpy_random": np.random.get_state(),
    "generator": np.random.default_rng(0),
    "path": pathlib.PurePosixPath("a/b"),
    "time": datetime.datetime(2026, 1, 1),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=3),
    "frozenset": frozenset([1]),
    "slice": slice(1, 2),
    "objects": np.array(["a", None], dtype=object),
    "texts": np.array(["a", "b"]),
}


def refusal(path: Any) -> str:
    with pytest.raises(CompileError) as caught:
        read_checkpoint(path)
    assert [d.code for d in caught.value.diagnostics] == ["GM510"]
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_plain_data_beside_the_tensors_does_not_matter(name: str, zipped: bool, tmp_path: Path) -> None:
    content = {"args": DATA[name], "model": {"w": torch.ones(2)}}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert [s.path for s in state_dicts(read_checkpoint(tmp_path / "x.pth"))] == [("model",)]


def test_subclasses_of_dict_may_hold_the_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class EasyDict(dict[str, Any]):
        __module__ = "easydict"
        __qualname__ = "EasyDict"

    monkeypatch.setitem(sys.modules, "easydict", types.SimpleNamespace(EasyDict=EasyDict))
    content = collections.defaultdict(dict, {"model": EasyDict(w=torch.ones(2))})
    torch.save(content, tmp_path / "x.pth")
    (state,) = state_dicts(read_checkpoint(tmp_path / "x.pth"))
    assert torch.equal(state.tensors["w"], torch.ones(2))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 4)])
def test_numpy_arrays_are_tensors(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    torch.save({"c": array, "f": np.asfortranarray(array)}, tmp_path / "x.pth")
    (state,) = state_dicts(read_checkpoint(tmp_path / "x.pth"))
    for tensor in state.tensors.values():
        assert torch.equal(tensor.reshape(shape), torch.from_numpy(array))  # numpy makes an F-ordered scalar a vector
    (state,) = state_dicts({"c": array})
    assert torch.equal(state.tensors["c"], torch.from_numpy(array))


class Evil:
    """Unpickling it writes the marker."""

    marker = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({self.marker!r}, 'w')",))


def evil_tar(path: Path, payload: bytes) -> None:
    """torch's format before 2017."""
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain", "tar", "protocol 4"])
def test_nothing_is_executed(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setattr(Evil, "marker", str(marker))
    path = tmp_path / "evil.pth"
    content = {"args": argparse.Namespace(x=Evil()), "model": {"w": torch.ones(2)}}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    elif form == "tar":
        evil_tar(path, pickle.dumps(Evil(), protocol=2))
    else:
        protocol = 4 if form == "protocol 4" else 2
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form != "legacy")
    text = refusal(path)
    assert not marker.exists()
    if form in ("zip", "legacy"):
        assert "eval" in text


def test_an_allowed_name_cannot_be_used_to_reach_another(tmp_path: Path) -> None:
    """`argparse.Namespace` is not the real class: neither its attributes nor its state lead anywhere."""
    code = b"\x80\x02cargparse\nNamespace\n)\x81}X\x09\x00\x00\x00__class__cbuiltins\nlist\nsb."
    (tmp_path / "x.pth").write_bytes(code)
    refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["Config", "\x1b[31mRed", "x" * 5000])
def test_a_refusal_names_the_class_without_control_characters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("project")
    monkeypatch.setitem(sys.modules, "project", module)
    setattr(module, name, type(name, (), {"__module__": "project"}))
    torch.save({"cfg": getattr(module, name)()}, tmp_path / "x.pth")
    text = refusal(tmp_path / "x.pth")
    assert "project." in text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 1000


def test_a_whole_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    text = refusal(tmp_path / "x.pth")
    assert "`torch.nn.modules.linear.Linear`" in text
    assert "state_dict()" in text


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "link to a fifo", "nothing", "zero byte", "long"])
def test_what_is_not_a_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path: Any = tmp_path / "x.pth"
    if kind in ("fifo", "link to a fifo"):
        os.mkfifo(tmp_path / "fifo")
        path = tmp_path / "fifo"
        if kind != "fifo":
            path = tmp_path / "link.safetensors"
            path.symlink_to(tmp_path / "fifo")
    path = {"directory": tmp_path, "device": "/dev/zero", "zero byte": "a\0b", "long": "x" * 5000}.get(kind, path)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(refusal(path)), daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert found
    assert "\0" not in found[0]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100) + b"{",
        struct.pack("<Q", 2) + b"{}"[:1],
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'[:64],
        b"",
        b"\xff" * 200,
    ],
    ids=["huge header", "cut header", "one byte", "no data", "empty", "noise"],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_damaged_files_get_one_diagnostic(data: bytes, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"x{ending}").write_bytes(data)
    refusal(tmp_path / f"x{ending}")


def test_cut_and_changed_files_get_one_diagnostic(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(100)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for end in range(0, len(whole), 97):
        (tmp_path / "cut.pth").write_bytes(whole[:end])
        refusal(tmp_path / "cut.pth")


def test_mappings_that_contain_themselves_end() -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    content["again"] = content
    content["trunk"] = {"a": content, "w": torch.ones(1)}
    assert state_dicts(content)


def test_an_optimizer_with_many_parameters_does_not_hide_the_model() -> None:
    states = {i: {"exp_avg": torch.zeros(1)} for i in range(6000)}
    assert ("model",) in [s.path for s in state_dicts({"optimizer": {"state": states}, "model": {"w": torch.ones(1)}})]


@pytest.mark.parametrize("source", [3, b"x.pth", io.BytesIO(b""), torch.nn.Linear(2, 2), ["x.pth"]])
def test_what_is_neither_a_path_nor_a_mapping_is_refused(source: Any) -> None:
    assert "a path or a mapping" in refusal(source)
