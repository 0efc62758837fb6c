"""Plans which modules FSDP wraps: stages of the graph, cut where one holds too many of the parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphmodel.diagnostics import fail
from graphmodel.lower.module import CompiledModel, check_unedited
from graphmodel.sharding.calls import count_calls, parameter_bytes

LARGEST = {"stage": 1 / 8, "block": 1 / 3}
"""The shares of all parameters above which a module is cut into the modules that it calls.

A block, most of which is layers, is cut later than a stage: gathering every layer by itself takes many small messages.
"""

SMALLEST = 1 / 1000
"""The share of all parameters below which a module of a trunk is left to the root, which is gathered once."""


@dataclass(frozen=True)
class ShardUnit:
    """A module whose parameters are gathered and released together.

    Attributes:
        path: its path from the root; empty for the root.
        module: the module.
        bytes: the bytes of its parameters, without those of other units inside it.
        trained: the bytes of those that require a gradient.
        calls: how often one forward pass calls it.
    """

    path: str
    module: nn.Module
    bytes: int
    trained: int
    calls: int = 1


def shard_plan(module: CompiledModel) -> list[nn.Module]:
    """The modules to wrap with `torch.distributed.fsdp.fully_shard`, in that order; wrap the module itself last.

    They are the stages that the graph calls. A stage with more than an eighth of all parameters is cut into its blocks,
    and a block with more than a third into its layers. Modules with less than a thousandth are left to the root, except
    for heads, which a slice may leave out. Each module is listed once, however often it is called. A module whose
    parameters another one shares is left to the root too, since FSDP keeps shared parameters in one group.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> heads = {"label": {"mlp": {"dims": ["auto", 10]}}}
        >>> model = graphmodel.compile({**spec, "heads": heads}, device="meta")
        >>> names = {module: name for name, module in model.named_modules()}
        >>> [names[stage] for stage in graphmodel.shard_plan(model)][:3]
        ['trunk.layer1', 'trunk.layer2', 'trunk.layer3.0']

        With a process group, on every rank::

            for stage in graphmodel.shard_plan(model):
                fully_shard(stage, mesh=mesh)
            fully_shard(model, mesh=mesh)

    Args:
        module: what `compile` returned, on any device, not wrapped.

    Returns:
        Modules of it, inner ones before those that hold them.

    Raises:
        CompileError: GM575 if it is not a compiled module, GM504 if its graph was edited.
    """
    return [unit.module for unit in shard_units(module) if unit.path]


def shard_units(module: CompiledModel) -> list[ShardUnit]:
    """The units of `shard_plan`, and the root with what is left, as the last.

    Raises:
        CompileError: GM575 if it is not a compiled module, GM504 if its graph was edited.
    """
    check_compiled(module, "shard_plan")
    check_unedited(module, "a plan")
    return _Plan(module).units()


def check_compiled(module: Any, function: str) -> None:
    """Refuses anything but a compiled module.

    Raises:
        CompileError: GM575.
    """
    if not isinstance(module, CompiledModel):
        message = f"`{function}` takes a compiled module, not {type(module).__name__}"
        help = "pass what `graphmodel.compile` returned, before it is wrapped (DDP) or compiled (`torch.compile`)"
        raise fail("GM575", message, help=help)


class _Plan:
    """One run of the planner."""

    def __init__(self, module: CompiledModel) -> None:
        self.module = module
        graph = module.model_graph
        self.calls: Counter[str] = count_calls(graph)
        self.targets = [str(n.target) for n in graph.nodes.values() if n.call == "module"]
        self.heads = {name for name, component in graph.components.items() if component.kind == "head"}
        self.total = parameter_bytes(module)
        self.owners: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.owners.setdefault(id(parameter), []).append(name)
        self.taken: set[int] = set()

    def units(self) -> list[ShardUnit]:
        """The units in the order in which they are to be wrapped."""
        found: dict[int, ShardUnit] = {}
        for path in dict.fromkeys(self.targets):
            for unit in self.below(path, self.module.get_submodule(path), path in self.heads):
                found.setdefault(id(unit.module), unit)
        return [*found.values(), self.unit("", self.module)]

    def below(self, path: str, module: nn.Module, head: bool) -> Iterator[ShardUnit]:
        """The units of a called module: itself, or modules that it calls and then itself if much is left."""
        if self.left(module) > self.total * LARGEST[_level(module)]:
            for name, child in module.named_children():
                yield from self.below(f"{path}.{name}", child, False)
        least = 1 if head else self.total * SMALLEST
        called = self.calls[path] if path in self.calls else int(path in self.targets)
        if called and self.left(module) >= least and self.is_closed(path, module):
            yield self.unit(path, module, called)

    def left(self, module: nn.Module) -> int:
        """Bytes of a module's parameters that are not in a unit yet."""
        return sum(p.numel() * p.element_size() for p in module.parameters() if id(p) not in self.taken)

    def is_closed(self, path: str, module: nn.Module) -> bool:
        """Whether nothing outside of a module holds its parameters."""
        return all(name.startswith(f"{path}.") for p in module.parameters() for name in self.owners[id(p)])

    def unit(self, path: str, module: nn.Module, calls: int = 1) -> ShardUnit:
        """The module with all of its parameters that are not in a unit yet."""
        own = [p for p in module.parameters() if id(p) not in self.taken]
        self.taken |= {id(p) for p in own}
        trained = sum(p.numel() * p.element_size() for p in own if p.requires_grad)
        return ShardUnit(path, module, sum(p.numel() * p.element_size() for p in own), trained, calls)


def _level(module: nn.Module) -> str:
    """`block` if most parameters of a module are in layers that it holds itself, `stage` if in modules of layers."""
    inner = sum(parameter_bytes(child) for child in module.children() if next(child.children(), None) is not None)
    return "stage" if inner * 2 > parameter_bytes(module) else "block"
