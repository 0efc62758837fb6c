"""`torch.export` programs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from graphmodel.exporters.format import Format, Run
from graphmodel.exporters.program import Program


def _write(program: Program, path: Path) -> None:
    buffer = io.BytesIO()  # on a full disk, torch's own writer of files ends the process
    torch.export.save(program.exported, buffer)
    path.write_bytes(buffer.getbuffer())


def _load(path: Path) -> Run:
    def run(args: tuple[Any, ...]) -> Any:
        # Loaded for every run: a program in training mode moves its running statistics.
        return torch.export.load(path).module()(*args)

    return run


FORMAT = Format("pt2", ".pt2", _write, _load, training=True)
