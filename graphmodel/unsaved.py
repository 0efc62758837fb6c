"""Tells what a saved model leaves out: layers that were exchanged or reset after it was compiled, and hooks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from graphmodel.lower.containers import Container

SHOWN = 4


def unsaved_changes(module: nn.Module, again: nn.Module) -> list[str]:
    """What of a module its spec does not give back, apart from tensors: one phrase for each layer, the first ones only.

    Layers are compared by class and by the settings that they print, such as a normalisation's `eps`.

    Example:
        >>> spec, edited = (nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2))
        >>> edited[1] = nn.GELU()
        >>> unsaved_changes(edited, spec)
        ["`1` is GELU(approximate='none') and not ReLU()"]

    Args:
        module: the module that is saved.
        again: what its spec gives.
    """
    found = list(_changes(module, again))
    return found if len(found) <= SHOWN else [*found[:SHOWN], f"{len(found) - SHOWN} more"]


def _changes(module: nn.Module, again: nn.Module) -> Iterator[str]:
    given = dict(module.named_modules())
    for name, expected in again.named_modules():
        layer = given.get(name)
        if layer is None:
            yield f"`{name}` is missing"
            continue
        if isinstance(expected, Container) or isinstance(layer, Container):
            continue  # never called
        what = f"`{name}`" if name else "the model"
        # A subclass is what FSDP and others make of a layer; layers with stored statistics are converted for training.
        converted = isinstance(layer, _NormBase) and isinstance(expected, _NormBase)
        same_class = isinstance(layer, type(expected)) or converted
        if name and not (same_class and layer.extra_repr() == expected.extra_repr()):
            yield f"{what} is {_shown(layer)} and not {_shown(expected)}"
        elif "forward" in layer.__dict__ and "forward" not in expected.__dict__:
            yield f"the `forward` of {what} was replaced"
        if _hooks(layer) > _hooks(expected):
            yield f"{what} has hooks"


def _shown(layer: nn.Module) -> str:
    return f"{type(layer).__name__}({' '.join(layer.extra_repr().split())})"


def _hooks(layer: nn.Module) -> int:
    return len(layer._forward_hooks) + len(layer._forward_pre_hooks)
