"""Exports compiled modules to files that run without graphmodel; one file for each format.

A new format is one file with a `FORMAT` and one entry in `FORMATS`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from graphmodel.diagnostics import CompileError, choices_help, fail, first_line
from graphmodel.exporters.format import Format
from graphmodel.exporters.program import difference, make_program
from graphmodel.lower.module import CompiledModel, check_compiled
from graphmodel.writing import cannot_write, fill_file

FORMATS = ("pt2", "onnx", "aoti")
"""Files of this package, which are also the names of the formats."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The largest difference from the module, relative to an output's largest value, that a file may show."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and how it was checked.

    Attributes:
        files: the file, and files that hold its weights if the format needs several.
        format: `pt2`, `onnx` or `aoti`.
        inputs: the dimensions of each input tensor by name, such as `{"images": ["batch", 3, 224, 224]}`.
        outputs: the names of the outputs.
        batches: the batch sizes at which the file was run after it was written.
        difference: the largest difference from the module at those sizes, relative to the output's largest value.
        seconds: how long it took.
        bytes: the size of the files.
    """

    files: list[str]
    format: str
    inputs: dict[str, list[str | int]]
    outputs: list[str]
    batches: list[int]
    difference: float
    seconds: float
    bytes: int


def export(
    module: CompiledModel,
    file: str | Path,
    *,
    to: str | None = None,
    training: bool = False,
    fold: bool = False,
) -> ExportReport:
    """Writes a compiled module to a file that runs without graphmodel.

    Every input has a dynamic batch size, 1 included; inputs that the model joins share it, in their ratio (nine patches
    for one image). Inputs and outputs keep the names of the spec; views are numbered (`crops_0`). The file is loaded
    and compared with the module at several batch sizes before it takes its place, so it is complete and right, or
    unchanged.

    - `pt2`: a `torch.export` program, loaded with `torch.export.load(file).module()`
    - `onnx`: an ONNX model (extra `export`), loaded with `onnxruntime.InferenceSession(file)`
    - `aoti`: a package compiled by AOTInductor (needs a C++ compiler), loaded with
      `torch._inductor.aoti_load_package(file)`

    Example:
        >>> import graphmodel, tempfile, torch
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     report = graphmodel.export(model, f"{place}/model.pt2")
        ...     loaded = torch.export.load(f"{place}/model.pt2").module()
        >>> report.inputs, report.outputs
        ({'images': ['batch', 3, 32, 32]}, ['label'])
        >>> loaded(torch.zeros(1, 3, 32, 32))["label"].shape
        torch.Size([1, 10])

    Args:
        module: what `compile` or `load` returned; neither its mode nor a tensor of it changes.
        file: where to; a file that was there is replaced.
        to: the format; by the file's suffix (`.pt2`, `.onnx`) if None.
        training: whether to export the training mode, with batch statistics and dropout (`pt2` alone).
        fold: whether to fold BatchNorm into the weights before it, as `optimize_for_inference` does. The file is
            smaller and faster, and has no weights of BatchNorm; numbers move by rounding.

    Returns:
        What was written, and the largest difference from the module.

    Raises:
        CompileError: GM580 if the format is unknown, or cannot hold what is asked for; GM581 if a package is missing;
            GM582 if the module cannot be exported; GM583 if the file gives other numbers than the module; GM520 if the
            file cannot be written.
    """
    start = time.monotonic()
    check_compiled(module, "export")
    chosen = find_format(file, to)
    if training and not chosen.training:
        raise fail("GM580", f"`{chosen.name}` holds a model in eval mode only", help="export the training mode to pt2")
    if training and fold:
        raise fail("GM580", "BatchNorm is folded for the eval mode only", help="leave out `fold` or `training`")
    _check_packages(chosen)
    program = make_program(module, training=training, fold=fold, to=chosen.name)
    worst = 0.0

    def fill(path: Path) -> None:
        nonlocal worst
        try:
            chosen.write(program, path)
            run = chosen.load(path)
            worst = max(difference(program, run, sample) for sample in program.samples)
        except CompileError:
            raise
        except OSError as error:
            raise cannot_write(file, error) from error
        except Exception as error:  # whatever an exporter or a runtime raises for a model that it does not know
            raise fail("GM582", f"this model cannot be exported to {chosen.name}: {first_line(error)}") from error
        allowed = TOLERANCE.get(program.dtype, 1e-4)
        if not worst <= allowed:
            message = (
                f"the {chosen.name} file differs from the module by {worst:.1e} (relative); {allowed:.0e} is allowed"
            )
            raise fail("GM583", message, help="nothing was written; please report the spec")

    files = fill_file(file, fill)
    return ExportReport(
        files=[str(f) for f in files],
        format=chosen.name,
        inputs=program.dimensions,
        outputs=list(program.outputs),
        batches=[sample.batch for sample in program.samples],
        difference=worst,
        seconds=round(time.monotonic() - start, 2),
        bytes=sum(f.stat().st_size for f in files),
    )


def find_format(file: str | Path, to: str | None) -> Format:
    """The format of that name, or of the file's suffix.

    Raises:
        CompileError: GM580.
    """
    suffix = Path(file).suffix
    if to is None and suffix.removeprefix(".") in FORMATS:
        to = suffix.removeprefix(".")
    if to not in FORMATS:
        message = f"`{to}` is not a valid export format" if to else f"no export format has the suffix `{suffix}`"
        raise fail("GM580", message, help=choices_help(str(to or suffix), list(FORMATS), "formats"), path="to")
    found: Format = import_module(f"graphmodel.exporters.{to}").FORMAT
    if suffix != found.suffix:
        message = f"a file of the format `{to}` ends in `{found.suffix}`, not `{suffix}`"
        raise fail("GM580", message, help=f"write to `{Path(file).with_suffix(found.suffix)}`", path="to")
    return found


def _check_packages(chosen: Format) -> None:
    missing = [name for name in chosen.packages if find_spec(name) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise fail("GM581", f"export to {chosen.name} needs {names}", help="pip install 'graphmodel[export]'")


__all__ = ["FORMATS", "ExportReport", "export", "find_format"]
