"""Runs Graphviz, which pygraphviz brings along, in a process of its own that can be kept for many drawings.

Graphviz keeps global state, has crashed after errors, and must find our fonts before it measures its first label. The
process therefore forks for each drawing, if the system can, which is much faster than to start anew.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from graphmodel.diagnostics import fail

VENDOR = Path(__file__).parent / "vendor"
TIMEOUT = 300
"""Seconds; a graph that takes longer shows thousands of boxes."""
FORKS = hasattr(os, "fork")

_PROGRAM = """
import json, os, sys
sys.path[:] = [p for p in sys.path if p]  # nothing from the working directory
import pygraphviz

def draw(job, out):
    try:
        graph = pygraphviz.AGraph(string=job["dot"])
        drawn = graph.draw(format=job["format"], prog=job["program"], args=job["args"])
        result = b"+" + (drawn if isinstance(drawn, bytes) else str(drawn).encode())
    except BaseException as error:
        result = b"-" + f"{type(error).__name__}: {error}".encode()
    os.write(out, len(result).to_bytes(8, "big"))
    while result:
        result = result[os.write(out, result):]
    os._exit(0)  # Graphviz has crashed in its own clean-up; nothing is left to do

out = os.dup(1)
os.dup2(2, 1)
for line in sys.stdin:
    child = os.fork() if hasattr(os, "fork") else 0
    if not child:
        draw(json.loads(line), out)
    if os.waitpid(child, 0)[1]:
        os._exit(1)
"""
_CONFIGURATION = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<cachedir>{cache}</cachedir>
<match target="font"><edit name="hinting"><bool>false</bool></edit><edit name="hintstyle"><const>hintnone</const></edit>
</match></fontconfig>
"""


class Graphviz:
    """Graphviz in a process that starts with the first drawing and runs until `close`."""

    def __init__(self) -> None:
        self.place: tempfile.TemporaryDirectory[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def draw(self, dot: str, format: str, program: str, args: str) -> bytes:
        """One drawing.

        Args:
            dot: what to draw.
            format: `svg`, `png`, `pdf` or `json0`.
            program: what lays it out.
            args: further arguments of Graphviz.

        Raises:
            CompileError: GM530 if Graphviz fails.
        """
        process = self.process = self.process or self._started()
        job = {"dot": dot, "format": format, "program": program, "args": args}
        late = threading.Event()

        def stop() -> None:
            late.set()
            _end(process)

        timer = threading.Timer(TIMEOUT, stop)
        timer.daemon = True
        timer.start()
        result = b""
        try:
            result = _answer(process, json.dumps(job).encode() + b"\n")
        finally:
            timer.cancel()
            if not result or not FORKS:
                self.close()
        if late.is_set():
            raise fail("GM530", f"Graphviz took longer than {TIMEOUT} s", help="show less: `--depth 0`, or `--stack`")
        if not result.startswith(b"+"):
            text = result[1:].decode(errors="replace").strip().splitlines()
            raise fail("GM530", f"Graphviz cannot draw this: {text[-1] if text else 'it crashed'}")
        return result[1:]

    def _started(self) -> subprocess.Popen[bytes]:
        self.place = tempfile.TemporaryDirectory()
        # A copy, because fontconfig writes files beside the fonts that it reads.
        fonts = Path(self.place.name) / "fonts"
        fonts.mkdir()
        for file in VENDOR.glob("*.ttf"):
            shutil.copy(file, fonts)
        configuration = Path(self.place.name) / "fonts.conf"
        configuration.write_text(_CONFIGURATION.format(fonts=fonts, cache=self.place.name), encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "FONTCONFIG_FILE": str(configuration), "PYTHONIOENCODING": "utf-8"},
        )

    def close(self) -> None:
        """Ends the process; another drawing starts a new one."""
        if self.process is not None:
            _end(self.process)
            self.process.communicate()
        if self.place is not None:
            self.place.cleanup()
        self.process = self.place = None


def _answer(process: subprocess.Popen[bytes], job: bytes) -> bytes:
    """What the process answers; empty if it ends without a whole answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(job)
        process.stdin.flush()
        size = int.from_bytes(process.stdout.read(8), "big")
        result = process.stdout.read(size)
    except OSError:
        return b""
    return result if len(result) == size else b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and the fork that draws."""
    if FORKS and process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


_running: ContextVar[Graphviz | None] = ContextVar("graphviz", default=None)


@contextmanager
def kept_running() -> Iterator[Graphviz]:
    """Keeps one process for all drawings that are made within, also by what is called."""
    if (outer := _running.get()) is not None:
        yield outer
        return
    graphviz = Graphviz()
    token = _running.set(graphviz)
    try:
        yield graphviz
    finally:
        _running.reset(token)
        graphviz.close()
