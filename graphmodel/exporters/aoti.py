"""Packages of AOTInductor: compiled machine code and weights, loaded from Python or C++."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import _inductor

from graphmodel.diagnostics import fail
from graphmodel.exporters.format import Format, Run
from graphmodel.exporters.program import Program


def _write(program: Program, path: Path) -> None:
    if program.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise fail("GM581", "AOTInductor needs a C++ compiler", help="install g++, or export to pt2 or onnx")
    _inductor.aoti_compile_and_package(program.exported, package_path=str(path))


def _load(path: Path) -> Run:
    loaded = _inductor.aoti_load_package(str(path))
    return lambda args: loaded(*args)


FORMAT = Format("aoti", ".pt2", _write, _load)
