"""`torch.export` programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from graphmodel.exporters.format import Format, Run
from graphmodel.exporters.program import Program


def _write(program: Program, path: Path) -> None:
    torch.export.save(program.exported, path)


def _load(path: Path) -> Run:
    def run(args: tuple[Any, ...]) -> Any:
        # Loaded for every run: a program in training mode moves its running statistics.
        return torch.export.load(path).module()(*args)

    return run


FORMAT = Format("pt2", ".pt2", _write, _load, training=True)
