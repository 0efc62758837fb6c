"""Packages of AOTInductor: compiled machine code and weights, loaded from Python or C++."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import _inductor
from torch.utils import _pytree as pytree

from graphmodel.diagnostics import fail
from graphmodel.exporters.format import Format, Run
from graphmodel.exporters.program import Program
from graphmodel.lower.torch_compile import kernels_without_guards

# torch writes checks of dtypes, sizes and strides, and skips them unless an environment variable is set at run time.
_SKIPPED = re.compile(r"if\s*\(\s*!\s*_check_aoti_runtime_check_inputs_env\(\)\s*\)\s*\{\s*return;\s*\}")
# The stride of a dimension of one element means nothing, and differs between equal tensors.
_STRIDE = re.compile(r"if \((\d+) != (\w+)_stride\[(\d+)\]\)")

# A batch of one is like others; torch states two as the least (see `program.py`).
_OPTIONS = {"aot_inductor.check_lowerbound": False}


def _write(program: Program, path: Path) -> None:
    if program.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise fail("GM581", "AOTInductor needs a C++ compiler", help="install g++, or export to pt2 or onnx")
    buffer = io.BytesIO()  # on a full disk, torch's own writer of files ends the process
    with _checking_inputs(), kernels_without_guards():
        _inductor.aoti_compile_and_package(program.exported, package_path=buffer, inductor_configs=_OPTIONS)
    path.write_bytes(buffer.getbuffer())
    _verify_checks(program, _load(path))


@contextmanager
def _checking_inputs() -> Iterator[None]:
    """Inside, packages check their inputs at every call.

    The compiled code addresses memory by the sizes and strides of the example. Without the checks, an image of another
    size, dtype or memory format gives other numbers, or reads memory that is not its own.
    """
    from torch._inductor.codecache import AotCodeCompiler

    original = AotCodeCompiler.compile

    def compile(graph: Any, *args: Any, **kwargs: Any) -> Any:
        return original(graph, *(check_always(arg) if isinstance(arg, str) else arg for arg in args), **kwargs)

    with mock.patch.object(AotCodeCompiler, "compile", compile):
        yield


def check_always(code: str) -> str:
    """The C++ code of a package with its checks of inputs at every call.

    >>> check_always("if (!_check_aoti_runtime_check_inputs_env()){ return; } f(); if (4 != x_stride[0]) {")
    ' f(); if (x_size[0] != 1 && 4 != x_stride[0]) {'
    """
    return _STRIDE.sub(r"if (\2_size[\3] != 1 && \1 != \2_stride[\3])", _SKIPPED.sub("", code))


def _verify_checks(program: Program, run: Run) -> None:
    """Refuses a package that takes an image of another size: another version of torch may write other code."""
    args = program.samples[-1].args
    # Larger, so that code without checks reads no memory of others.
    larger = pytree.tree_map(lambda t: torch.cat([t, t], -1), args)
    try:
        run(larger)
    except RuntimeError:
        return
    raise fail(
        "GM582",
        f"AOTInductor of torch {torch.__version__} writes packages that do not check the sizes of their inputs",
        help="export to pt2 or onnx",
    )


def _load(path: Path) -> Run:
    loaded = _inductor.aoti_load_package(str(path))
    return lambda args: loaded(*args)


FORMAT = Format("aoti", ".pt2", _write, _load)
