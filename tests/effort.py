"""Counts the steps of Python code and the tensors that are made: measures of work that are the same on every machine, unlike time and memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphmodel import CompileError


def steps(work: Callable[[], object]) -> tuple[int, CompileError | None]:
    """How many calls, lines and rounds of loops a call takes, and the error that it raised.

    Work inside functions written in C is not counted: a copy of a list is one step. Caches that the call fills have to
    be warm for the number to be repeatable.
    """
    count = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return step

    raised = None
    before = sys.gettrace()  # coverage's
    sys.settrace(step)
    try:
        work()
    except CompileError as error:
        raised = error
    finally:
        sys.settrace(before)
    return count, raised


def growth(work: Callable[[int], object], size: int) -> float:
    """How many times as many steps work of four times the size takes: about 4 if it is linear, 16 if quadratic."""
    return steps(lambda: work(4 * size))[0] / steps(lambda: work(size))[0]


class RealTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are written outside the meta device, and the operations.

    What is only reserved takes no memory, so that `torch.empty` is not counted until something fills it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if func.overloadpacket not in (torch.ops.aten.empty, torch.ops.aten.detach):
            real = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.device.type != "meta"]
            self.bytes += sum(t.nbytes for t in real)
        return result
