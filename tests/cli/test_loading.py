"""The line that says on a terminal which library is being loaded."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SLOW = (
    "import sys, time\ntime.sleep({seconds})\nprint('loaded by', type(__spec__.loader).__name__)\nraise SystemExit(3)\n"
)
SPEC = "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n"


def on_terminal(tmp_path: Path, seconds: float, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and what a terminal on stderr got, if torch takes this long to load."""
    (tmp_path / "torch.py").write_text(SLOW.format(seconds=seconds))
    (tmp_path / "spec.yaml").write_text(SPEC)
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    env = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", **environment}
    command = [sys.executable, "-m", "graphmodel", "check", str(tmp_path / "spec.yaml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=env, check=False, text=True)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed and nothing is left
        pass
    os.close(ours)
    return done.returncode, done.stdout, shown.decode()


def test_a_library_that_takes_long_is_named_and_the_line_disappears(tmp_path: Path) -> None:
    code, stdout, shown = on_terminal(tmp_path, 1.6)
    assert code == 3
    assert stdout == "loaded by SourceFileLoader\n"
    assert shown == "loading torch ...\r\x1b[K"


def test_nothing_is_said_of_a_short_time_or_on_a_dumb_terminal(tmp_path: Path) -> None:
    assert on_terminal(tmp_path, 0.0)[2] == ""
    assert on_terminal(tmp_path, 1.2, TERM="dumb")[2] == ""


def test_nothing_is_said_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SLOW.format(seconds=1.2))
    (tmp_path / "spec.yaml").write_text(SPEC)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    command = [sys.executable, "-m", "graphmodel", "check", str(tmp_path / "spec.yaml")]
    done = subprocess.run(command, capture_output=True, env=env, check=False, text=True)
    assert (done.returncode, done.stderr) == (3, "")
