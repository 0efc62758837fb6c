"""Lays DOT out with Graphviz, which pygraphviz brings along, in a process of its own.

A process of its own, because Graphviz keeps global state, has crashed after errors, and must find our fonts before it
measures its first label.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from graphmodel.diagnostics import CompileError, Diagnostic

VENDOR = Path(__file__).parent / "vendor"
PROCESS = Path(__file__).parent / "graphviz_process.py"
TIMEOUT = 300
"""Seconds; a graph that needs longer has thousands of boxes on view."""

_CONFIGURATION = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<cachedir>{cache}</cachedir>
<match target="font"><edit name="hinting"><bool>false</bool></edit><edit name="hintstyle"><const>hintnone</const></edit>
</match></fontconfig>
"""


def lay_out(dot: str, form: str, *, dpi: int = 200) -> bytes:
    """The drawing.

    Args:
        dot: the text of a picture.
        form: `svg`, `png` or `pdf`.
        dpi: the resolution of a PNG.

    Raises:
        CompileError: GM530 where pygraphviz is missing or Graphviz fails.
    """
    if find_spec("pygraphviz") is None:
        raise failure("pygraphviz is not installed", "pip install 'graphmodel[visualize]'")
    with tempfile.TemporaryDirectory() as place:
        fonts = Path(place) / "fonts"  # a copy, because fontconfig leaves files beside the fonts that it reads
        fonts.mkdir()
        for file in VENDOR.glob("*.ttf"):
            shutil.copy(file, fonts)
        configuration = Path(place) / "fonts.conf"
        configuration.write_text(_CONFIGURATION.format(fonts=fonts, cache=place), encoding="utf-8")
        environment = {**os.environ, "FONTCONFIG_FILE": str(configuration), "PYTHONIOENCODING": "utf-8"}
        try:
            made = subprocess.run(
                [sys.executable, str(PROCESS), form, str(dpi)],
                input=dot.encode(),
                capture_output=True,
                env=environment,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise failure(f"Graphviz took longer than {TIMEOUT} s", "show less: `--depth 0`, or a stack") from None
    if made.returncode or not made.stdout:
        text = made.stderr.decode(errors="replace").strip().splitlines()
        raise failure(f"Graphviz cannot draw this: {text[-1] if text else made.returncode}")
    return made.stdout


def failure(message: str, help: str = "") -> CompileError:
    """GM530 with a message."""
    return CompileError([Diagnostic("GM530", message, None, help)])


def svg_of(dot: str) -> str:
    """The drawing as SVG without Graphviz's preamble."""
    text = lay_out(dot, "svg").decode()
    return re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.S)
