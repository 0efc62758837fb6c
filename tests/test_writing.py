"""Files and directories are written as a whole, whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graphmodel import CompileError, writing
from graphmodel.writing import fill_file, replace_directory, write_file

OWN = ("a.txt", "b.txt")


def fill_with(text: str):
    def fill(place: Path) -> None:
        for name in OWN:
            (place / name).write_text(text)

    return fill


def contents(directory: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in directory.iterdir() if p.is_file()}


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path):
    target = tmp_path / "deep" / "out.txt"
    assert write_file(target, "é") == target
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask
    target.chmod(0o600)
    write_file(target, b"second")
    assert target.read_bytes() == b"second"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in target.parent.iterdir()] == ["out.txt"]


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real.txt")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    write_file("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


def test_a_fifo_is_written_to_if_somebody_reads_it_and_never_replaced(tmp_path):
    fifo = tmp_path / "fifo.txt"
    os.mkfifo(fifo)
    for write in (
        lambda p: write_file(p, "x"),
        lambda p: fill_file(p, lambda fresh: fresh.write_text("x")),
        lambda p: replace_directory(p, OWN, fill_with("x")),
    ):
        with pytest.raises(CompileError, match=r"GM520.*(nobody reads|not a regular file|not a directory)"):
            write(fifo)
        assert fifo.is_fifo()
        assert [p.name for p in tmp_path.iterdir()] == ["fifo.txt"]
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(fifo, "text")
        assert os.read(reader, 10) == b"text"
    finally:
        os.close(reader)


@pytest.mark.parametrize("place", ["file/below", "a" * 300, "/proc/nothing/x", ".", "nul\0"])
def test_what_cannot_be_written_is_one_diagnostic(tmp_path, place):
    (tmp_path / "file").write_text("")
    for write in (lambda p: write_file(p, "x"), lambda p: replace_directory(Path(p) / "d", OWN, fill_with("x"))):
        if place == "." and "replace" in str(write.__code__.co_names):
            continue
        with pytest.raises(CompileError) as caught:
            write(tmp_path / place)
        assert [d.code for d in caught.value.diagnostics] == ["GM520"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "out.txt").write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompileError, match="No space left on device"):
        write_file(tmp_path / "out.txt", "new")
    replace = pytest.raises(CompileError, match="No space left on device")
    (tmp_path / "d").mkdir()
    with replace:
        replace_directory(tmp_path / "d", OWN, fill_with("new"))
    assert (tmp_path / "out.txt").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "out.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_one_diagnostic(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CompileError, match="Permission denied"):
        write_file(tmp_path / "out.txt", "x")


@pytest.mark.parametrize("atomic", [True, False])
def test_a_directory_is_replaced_as_a_whole(tmp_path, monkeypatch, atomic):
    if not atomic:
        monkeypatch.setattr(writing, "exchange", lambda *_: False)
    target = tmp_path / "out"
    replace_directory(target, OWN, fill_with("first"))
    (target / "b.txt").unlink()
    (target / "__pycache__").mkdir()
    (target / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"")
    replace_directory(target, OWN, fill_with("second"))
    assert contents(target) == dict.fromkeys(OWN, "second")
    assert sorted(p.name for p in target.iterdir()) == list(OWN)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("atomic", [True, False])
def test_a_file_that_users_put_there_meanwhile_is_kept(tmp_path, monkeypatch, atomic):
    if not atomic:
        monkeypatch.setattr(writing, "exchange", lambda *_: False)
    target = tmp_path / "out"
    replace_directory(target, OWN, fill_with("first"))

    def fill(place: Path) -> None:
        fill_with("second")(place)
        (target / "notes.md").write_text("mine")
        (target / "plots").mkdir()
        (target / "plots" / "one.txt").write_text("mine too")

    replace_directory(target, OWN, fill)
    assert contents(target) == {**dict.fromkeys(OWN, "second"), "notes.md": "mine"}
    assert (target / "plots" / "one.txt").read_text() == "mine too"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_result_comes_back_if_the_fallback_fails_half_way(tmp_path, monkeypatch):
    target = tmp_path / "out"
    replace_directory(target, OWN, fill_with("first"))
    monkeypatch.setattr(writing, "exchange", lambda *_: False)
    rename = Path.rename

    def failing(self: Path, to: Path):
        if Path(to) == target and (self / "a.txt").read_text() == "second":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CompileError, match="Input/output error"):
        replace_directory(target, OWN, fill_with("second"))
    assert contents(target) == dict.fromkeys(OWN, "first")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_reader_always_finds_a_whole_result(tmp_path):
    target = tmp_path / "out"
    replace_directory(target, OWN, fill_with("0"))
    stop, missing, looks = threading.Event(), [], [0]

    def read() -> None:
        while not stop.is_set():
            looks[0] += 1
            try:
                (target / "a.txt").stat()
            except FileNotFoundError:
                missing.append(looks[0])

    thread = threading.Thread(target=read)
    thread.start()
    for i in range(200):
        replace_directory(target, OWN, fill_with(str(i)))
    stop.set()
    thread.join()
    assert looks[0] > 200
    assert not missing


def test_leftovers_of_a_killed_writer_are_removed_by_the_next(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from graphmodel.writing import replace_directory\n"
        "def fill(place):\n"
        "    (place / 'a.txt').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        f"replace_directory({str(tmp_path / 'out')!r}, ('a.txt',), fill)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    (tmp_path / ".out.graphmodel-mine").write_text("a user's file with a similar name")
    write_file(tmp_path / "out.other", "x")
    running = [p.name for p in tmp_path.iterdir() if p.is_dir()]
    assert len(running) == 1
    replace_directory(tmp_path / "out", OWN, fill_with("first"))
    assert running[0] in [p.name for p in tmp_path.iterdir()], "a writer that is alive keeps its files"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    replace_directory(tmp_path / "out", OWN, fill_with("second"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.graphmodel-mine", "out", "out.other"]
