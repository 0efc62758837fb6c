"""Tells whether calling a module runs more than its `forward`."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module


def has_global_hooks() -> bool:
    """Whether a hook is registered that runs at the calls of all modules."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks of its own.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> handle = layer.register_forward_hook(lambda *args: None)
        >>> has_hooks(layer), has_hooks(nn.Linear(2, 3))
        (True, False)
    """
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
