"""Finds the compiled models inside of what a trainer holds: DDP, `torch.compile`, a LightningModule."""

from __future__ import annotations

from torch import nn

from graphmodel.diagnostics import fail
from graphmodel.lower.module import CompiledModel


def compiled_models(module: nn.Module, what: str) -> dict[str, CompiledModel]:
    """The compiled models that a module is, wraps or holds, by their paths in it.

    Args:
        module: a compiled model, or a module around one or several.
        what: who asks, for the message.

    Raises:
        CompileError: GM590 if there is none.
    """
    if isinstance(module, nn.Module):
        found = {path: part for path, part in module.named_modules() if isinstance(part, CompiledModel)}
        if found:
            return found
    message = f"`{what}` takes a compiled model, or a module that holds one, not {type(module).__name__}"
    raise fail("GM590", message, help="use what `graphmodel.compile` or `graphmodel.load` returned")
