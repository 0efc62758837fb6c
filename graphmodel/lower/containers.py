"""Modules that only hold others: the root's `trunk` and `heads`, and what lies between them and the called parts."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn


class Container(nn.Module):
    """Holds modules that `forward` calls one by one and is never called itself.

    A hook on it would never run, so registering one warns and names the parts that are called.

    Attributes:
        kept_in_eval: paths of parts that the `train()` of the trunk's own classes keeps in eval mode.
    """

    kept_in_eval: tuple[str, ...] = ()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for path in self.kept_in_eval if mode else ():
            holder, _, name = path.rpartition(".")
            part = _child(self, holder)
            child = part._modules.get(name) if part is not None else None
            if child is not None:
                child.training = False  # its own parts have paths of their own
        return self

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        self._warn("forward pre-hook")
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        self._warn("forward hook")
        return super().register_forward_hook(*args, **kwargs)

    def register_full_backward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        self._warn("backward pre-hook")
        return super().register_full_backward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        self._warn("backward hook")
        return super().register_full_backward_hook(*args, **kwargs)

    def _warn(self, what: str) -> None:
        names = list(self._modules)
        shown = ", ".join(f"`{name}`" for name in (names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]))
        warnings.warn(
            f"this {what} will never run: the module is a container, whose parts are called one by one ({shown}); "
            "register the hook on a part, or on the whole model",
            stacklevel=3,
        )


def _child(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a path; None if it is not there, as in a slice."""
    for name in path.split(".") if path else ():
        found = module._modules.get(name)
        if found is None:
            return None
        module = found
    return module


class HeadsContainer(Container, nn.ModuleDict):
    """The container of the heads, which is also a dict by name."""
