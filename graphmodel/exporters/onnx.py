"""ONNX models, by torch's own exporter; inputs, outputs and the batch dimension keep their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphmodel.exporters.format import Format, Run
from graphmodel.exporters.program import Program

ONE_FILE = 1_900_000_000
"""Bytes of weights that a single file may hold; protobuf's limit is 2 GiB."""


def _write(program: Program, path: Path) -> None:
    made = torch.onnx.export(
        program.exported,
        (),
        dynamo=True,
        input_names=list(program.inputs),
        output_names=list(program.outputs),
        verbose=False,
    )
    assert made is not None
    _name_dimensions(made.model, program)
    weights = sum(t.numel() * t.element_size() for t in program.exported.state_dict.values())
    made.save(path, external_data=weights > ONE_FILE)


def _name_dimensions(model: Any, program: Program) -> None:
    """Calls the batch `batch`, where torch has invented a name such as `s77`."""
    import onnx_ir

    invented: dict[str, str] = {}
    for value in model.graph.inputs:
        for found, name in zip(value.shape or (), program.dimensions[value.name], strict=True):
            symbol = re.fullmatch(r"(?:(\d+)\*)?(\w+)", str(getattr(found, "value", found)))
            own = re.fullmatch(r"(?:\d+\*)?(\w+)", str(name))
            if isinstance(name, str) and symbol and own and not symbol[2].isdigit():
                invented[symbol[2]] = own[1]
    values = [*model.graph.inputs, *model.graph.outputs]
    values += [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in values:
        if value.shape is None:
            continue
        dims = [_renamed(dim, invented) for dim in value.shape]
        value.shape = onnx_ir.Shape(dims)


def _renamed(dim: Any, names: dict[str, str]) -> Any:
    text = getattr(dim, "value", dim)
    if not isinstance(text, str):
        return dim
    return re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), text)


def _load(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(args: tuple[Any, ...]) -> Any:
        tensors = [t.detach().cpu() for t in pytree.tree_leaves(args)]
        values = session.run(None, {name: t.numpy() for name, t in zip(names, tensors, strict=True)})
        return [torch.from_numpy(value) for value in values]

    return run


FORMAT = Format("onnx", ".onnx", _write, _load, packages=("onnx", "onnxscript", "onnxruntime"))
