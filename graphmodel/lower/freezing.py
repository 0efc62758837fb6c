"""Freezes modules: no gradient, and eval behaviour whatever `train()` is called on or is put in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from graphmodel.build.freeze_patterns import frozen_modules, is_frozen, moving_norms

STAND_INS = ("train", "add_module", "reset_running_stats", "reset_parameters")
"""Methods of a `Keeper` that live in a module's `__dict__` and belong to that module alone."""


class Keeper:
    """Keeps a module, or frozen children of a module, in eval mode; replaces methods of it.

    `train` and `add_module` of every module, and of a frozen norm `reset_running_stats` and `reset_parameters` as well:
    `torch.optim.swa_utils.update_bn` resets the statistics of all norms and then expects them to move.

    The methods live in the module's own `__dict__`, so that `train()` of any parent, deepcopy, pickle and wrappers all
    meet them, and the module keeps its class and its state-dict keys (a plain `.eval()` is undone by the next
    `train()`). Nothing notices an assignment `module.training = True`; the next `train()` or `eval()` undoes it.

    Conversions such as `SyncBatchNorm.convert_sync_batchnorm` put another module in the place of a frozen one. The
    parent's keeper freezes it in turn. A wrapper around a frozen module, such as a LoRA layer, is not frozen itself:
    what it adds trains, and what it holds stays frozen.

    Args:
        module: the module.
        frozen: whether it is frozen itself.
        children: names of frozen parameters, by the name of each child that is frozen.
    """

    def __init__(self, module: nn.Module, frozen: bool, children: dict[str, frozenset[str]]) -> None:
        self.module, self.frozen, self.children = module, frozen, children

    def train(self, mode: bool = True) -> nn.Module:
        """As `nn.Module.train`, for everything that is not frozen."""
        for name in self.children:
            self.freeze_again(name)
        if self.frozen:
            self.module.training = False  # it may have been set by hand
            for child in self.module.children():
                child.train(mode)
        else:
            type(self.module).train(self.module, mode)
        return self.module

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As `nn.Module.add_module`; what takes the place of a frozen module is frozen."""
        type(self.module).add_module(self.module, name, module)
        self.freeze_again(name)

    def reset_running_stats(self) -> None:
        """Nothing: the statistics of a frozen norm stay."""

    def reset_parameters(self) -> None:
        """As the norm's own method, which initialises its statistics, too."""
        cls: Any = type(self.module)
        cls.reset_running_stats(self.module)
        cls.reset_parameters(self.module)

    def freeze_again(self, name: str) -> None:
        """Freezes what was put in the place of a frozen child."""
        child = self.module._modules.get(name)
        if name not in self.children or child is None or _holds_frozen(child):
            return
        for path, parameter in child.named_parameters():
            if path in self.children[name] or isinstance(child, _NormBase):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in child.parameters()):
            child.eval()
            add_keepers(child, "", {path for path, _ in child.named_modules()})


def is_kept(module: nn.Module) -> bool:
    """Whether the module itself is kept in eval mode."""
    keeper = getattr(module.__dict__.get("train"), "__self__", None)
    return isinstance(keeper, Keeper) and keeper.frozen


def _holds_frozen(child: nn.Module) -> bool:
    """Whether what stands in a frozen module's place is that module itself, or a wrapper around it.

    A converted norm may hold the activation and the dropout of the frozen one (timm's `SyncBatchNormAct`), which does
    not make it a wrapper; nor do modules without tensors.
    """
    if is_kept(child):
        return True
    if isinstance(child, _NormBase):
        return False
    return any(is_kept(part) and next(iter(part.state_dict()), None) is not None for part in child.modules())


def freeze_modules(root: nn.Module, patterns: Iterable[str]) -> None:
    """Freezes what the patterns cover: `requires_grad=False`, and eval mode for good, except for `moving_norms`.

    Args:
        root: the module whose names the patterns are about.
        patterns: the graph's `frozen`.
    """
    patterns = tuple(patterns)
    if not patterns:
        return
    for name, parameter in root.named_parameters(remove_duplicate=False):
        if is_frozen(name, patterns):
            parameter.requires_grad_(False)
    moving = [(module, module.training) for _, module in moving_norms(root, patterns)]
    for _, module in frozen_modules(root, patterns):
        module.eval()
    for module, training in moving:
        module.training = training
    keep_frozen(root, patterns)


def keep_frozen(root: nn.Module, patterns: Iterable[str]) -> None:
    """Makes everything that the patterns cover stay frozen, without freezing it now."""
    names = {name for name, _ in frozen_modules(root, tuple(patterns))}
    if names:
        add_keepers(root, "", names)


def add_keepers(module: nn.Module, path: str, frozen: set[str]) -> bool:
    """Gives keepers to the frozen modules and to their ancestors; whether there is one in here."""
    children: dict[str, frozenset[str]] = {}
    found = path in frozen
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        found = add_keepers(child, inner, frozen) or found
        if inner in frozen:
            children[name] = frozenset(n for n, p in child.named_parameters() if not p.requires_grad)
    if found:
        keeper = Keeper(module, path in frozen, children)
        module.__dict__["train"], module.__dict__["add_module"] = keeper.train, keeper.add_module
        if keeper.frozen and isinstance(module, _NormBase):
            module.__dict__["reset_running_stats"] = keeper.reset_running_stats
            module.__dict__["reset_parameters"] = keeper.reset_parameters
    return found
