"""Holds frozen modules still: no gradient, and eval behaviour whatever `train()` is called on or around them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from graphmodel.build.freeze_patterns import frozen_modules, is_frozen


class StayInEval:
    """Stands in for a frozen module's `train` method.

    It lives in the module's own `__dict__`, so `train()` of any parent, deepcopy, pickle and wrappers all meet it,
    and the module keeps its class and its state-dict keys (a `train` override on a GraphModule would be lost in
    pickling, a plain `.eval()` is undone by the next `train()`).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def freeze_modules(root: nn.Module, patterns: Iterable[str]) -> None:
    """Freezes what the patterns cover: `requires_grad=False`, eval mode for good."""
    patterns = tuple(patterns)
    if not patterns:
        return
    for name, parameter in root.named_parameters(remove_duplicate=False):
        if is_frozen(name, patterns):
            parameter.requires_grad_(False)
    for _, module in frozen_modules(root, patterns):
        module.eval()
    for _, module in frozen_modules(root, patterns):
        module.__dict__["train"] = StayInEval(module)
