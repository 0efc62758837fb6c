"""Tells whether calling a module once is the same as calling it twice, by running it on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphmodel.build.freeze_patterns import frozen_modules
from graphmodel.graph.types import ModelGraph, Node
from graphmodel.passes.on_meta import batch_size, filled


def why_impure(graph: ModelGraph, node: Node, known: dict[tuple[str, int], Any] | None = None) -> str | None:
    """Why two calls on one value differ from a single one in training mode; None if they do not.

    The module runs once on the meta device, in the mode in which each of its parts would be in training: an operation
    that draws random numbers, or a buffer that was written to, makes the difference.

    Args:
        graph: the graph.
        node: a call in it.
        known: what other calls returned, for `filled`.
    """
    module = graph.module_of(node)
    if module is None:
        return None
    buffers = {name: (buffer, buffer._version) for name, buffer in module.named_buffers()}
    watch = _Watch()
    batch = batch_size(graph)
    try:
        args, kwargs = filled(graph, (list(node.args), dict(node.kwargs)), batch, known)
        with torch.no_grad(), as_in_training(module, str(node.target), graph.frozen), torch.device("meta"), watch:
            module(*args, **kwargs)
    except Exception:  # what cannot be run cannot be proved
        return "could not be run on its own, so that two calls cannot be proved equal to one"
    if watch.random:
        return "draws random numbers in training mode"
    changed = [name for name, (buffer, version) in buffers.items() if buffer._version != version]
    if changed:
        return f"changes its buffers in training mode (`{changed[0]}`), once for each call"
    return None


def draws_random_numbers(graph: ModelGraph, node: Node, known: dict[tuple[str, int], Any] | None = None) -> bool:
    """Whether a call of a function or method draws random numbers, or cannot be run to find out; `known` as above."""
    watch = _Watch()
    try:
        args, kwargs = filled(graph, (list(node.args), dict(node.kwargs)), batch_size(graph), known)
        with torch.no_grad(), torch.device("meta"), watch:
            if callable(node.target):
                node.target(*args, **kwargs)
            else:
                getattr(args[0], node.target)(*args[1:], **kwargs)
    except Exception:  # what cannot be run cannot be proved
        return True
    return watch.random


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = True
        return func(*args, **(kwargs or {}))


@contextmanager
def as_in_training(module: nn.Module, path: str, frozen: tuple[str, ...]) -> Iterator[None]:
    """Inside, each part of a module has the mode that it has in training: frozen parts are in eval mode."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    for _, part in frozen_modules(module, frozen, path):
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
