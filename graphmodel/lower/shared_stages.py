"""Checks at each call that stages which inputs share are the ones that were proven to keep samples apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from graphmodel.build.freeze_patterns import frozen_modules
from graphmodel.diagnostics.input_error import InputError
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.per_sample import registered

SHARED_STAGES = "shared_stages"
"""The name of the check in a compiled module."""

_RATES = ("p", "drop_prob")
"""Attributes that make a module draw random numbers in training mode, unless they are 0."""


@dataclass
class Expected:
    """What a stage was when it was proven to keep samples apart; its modules level by level, breadth first.

    Attributes:
        path: the stage's path from the module's root.
        paths: the paths of its modules.
        types: their classes.
        frozen: positions of those that stay in eval mode.
        rates: positions, attributes and values of the `_RATES` of the others.
    """

    path: str
    paths: list[str]
    types: list[type[nn.Module]]
    frozen: list[int] = field(default_factory=list)
    rates: list[tuple[int, str, Any]] = field(default_factory=list)


class SharedStages(nn.Module):
    """Refuses a call if a shared stage was changed so that it may mix the samples of the joined batch.

    What `batch_inputs` joins was proven for the modules as they were compiled. A frozen BatchNorm that was put in
    training mode by hand, or a module of another type, may compute with the whole joined batch instead of each input.

    Accepted are subclasses that keep `forward` (parametrized or sharded modules), another normalization in the place of
    a frozen one (converted to `SyncBatchNorm`), and types that `register_per_sample` was called for.

    Args:
        expected: what the stages were.
    """

    _is_impure = True  # for fx: a call without a result is kept

    def __init__(self, expected: list[Expected]) -> None:
        super().__init__()
        self.expected = expected

    def forward(self, *holders: nn.Module) -> None:
        """Checks the stages under the root's children, given in the order in which the stages name them first.

        Raises:
            InputError: GM412.
        """
        names = list(dict.fromkeys([expected.path.partition(".")[0] for expected in self.expected]))
        roots = dict(zip(names, holders, strict=True))
        for expected in self.expected:
            first, *rest = expected.path.split(".")
            stage: Any = roots[first]
            for name in rest:
                stage = stage._modules[name]
            modules, level = [stage], [stage]
            while level:
                level = [child for module in level for child in module._modules.values() if child is not None]
                modules += level
            types = [type(module) for module in modules]
            if types != expected.types:
                _check_types(expected, stage)
                continue
            for position in expected.frozen:
                if modules[position].training:
                    raise _in_training(expected.paths[position])
            for position, name, value in expected.rates:
                now = getattr(modules[position], name)
                if now != value and now:
                    raise _changed_rate(expected.paths[position], name, value, now)


def _check_types(expected: Expected, stage: nn.Module) -> None:
    """Tells which change of a stage's modules is harmless; slower, for the stages that were changed."""
    frozen = {expected.paths[position] for position in expected.frozen}
    rates = {(expected.paths[position], name): value for position, name, value in expected.rates}
    was = dict(zip(expected.paths, expected.types, strict=True))
    skipped: list[str] = []
    for path, module in _breadth_first(stage, expected.path):
        if any(path.startswith(f"{above}.") for above in skipped):
            continue
        kind, before = type(module), was.get(path)
        if kind is not before and registered.get(kind) is True:
            skipped.append(path)
            continue
        same = before is not None and issubclass(kind, before) and kind.forward is before.forward
        norms = before is not None and path in frozen and issubclass(kind, _NormBase) and issubclass(before, _NormBase)
        parametrized = ".parametrizations" in path.removeprefix(expected.path)
        if not same and not norms and not parametrized:
            raise _changed_type(path, kind, before)
        if path in frozen and module.training:
            raise _in_training(path)
        for name in _RATES:
            now = getattr(module, name, None)
            if (path, name) in rates and now != rates[path, name] and now:
                raise _changed_rate(path, name, rates[path, name], now)


def _in_training(path: str) -> InputError:
    return InputError(
        "GM412",
        f"`{path}` is frozen and in training mode: `batch_inputs` joined inputs for a module that stays in eval mode",
        f"set its `training` to False, or {_WITHOUT}",
    )


def _changed_type(path: str, kind: type[nn.Module], before: type[nn.Module] | None) -> InputError:
    was = f"was a `{before.__name__}`" if before is not None else "did not exist"
    return InputError(
        "GM412",
        f"`{path}` is a `{kind.__name__}` and {was} when `batch_inputs` joined inputs: it may mix their samples",
        f"declare it with `graphmodel.register_per_sample({kind.__name__})` if it does not, or {_WITHOUT}",
    )


def _changed_rate(path: str, name: str, before: Any, now: Any) -> InputError:
    return InputError(
        "GM412",
        f"`{path}.{name}` is {now} and was {before} when `batch_inputs` joined inputs: it draws for all at once",
        f"set it before the model is compiled, or {_WITHOUT}",
    )


_WITHOUT = "compile with `optimize: {batch_inputs: false}`"


def _breadth_first(stage: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    found, level = [(path, stage)], [(path, stage)]
    while level:
        level = [
            (f"{above}.{name}", child)
            for above, module in level
            for name, child in module._modules.items()
            if child is not None
        ]
        found += level
    return found


def expected_stage(stage: nn.Module, path: str, frozen: Collection[str]) -> Expected:
    """What a stage is now.

    Args:
        stage: the module, or its counterpart on the meta device.
        path: its path from the root.
        frozen: the paths of frozen modules.
    """
    found = _breadth_first(stage, path)
    expected = Expected(path, [inner for inner, _ in found], [type(module) for _, module in found])
    for position, (inner, module) in enumerate(found):
        if inner in frozen:
            expected.frozen.append(position)
            continue
        expected.rates += [(position, name, module.__dict__[name]) for name in _RATES if name in module.__dict__]
    return expected


def attach_check(root: nn.Module, graph: ModelGraph, known: nn.Module | None = None) -> None:
    """Gives a module the check of its shared stages.

    Args:
        root: the module that holds them.
        graph: the optimized graph.
        known: the compiled module that `root` was made from, which may have been changed since; None if the stages of
            `root` are as they were proven to be.
    """
    root._modules.pop(SHARED_STAGES, None)
    if not graph.shared_stages:
        return
    frozen = {
        path
        for name, component in graph.components.items()
        for path, _ in frozen_modules(component.meta, graph.frozen, name)
    }
    earlier: Any = known._modules.get(SHARED_STAGES) if known is not None else None
    before = {expected.path: expected for expected in earlier.expected} if earlier is not None else {}
    on_meta = {str(node.target): graph.module_of(node) for node in graph.nodes.values() if node.call == "module"}
    made: list[Expected] = []
    for path in graph.shared_stages:
        stage = on_meta.get(path) if known is not None else _at(root, path)
        if path in before:
            made.append(before[path])
        elif stage is not None:  # optimizations may have merged it with another
            made.append(expected_stage(stage, path, frozen))
    root.add_module(SHARED_STAGES, SharedStages(made))


def _at(root: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = root
    for name in path.split("."):
        module = module._modules.get(name) if module is not None else None
    return module
