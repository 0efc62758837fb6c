"""Computes what sharding a model over many processes costs each of them: memory, and bytes over the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import networkx as nx
from torch import nn

from graphmodel.diagnostics import choices_help, fail
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.module import CompiledModel
from graphmodel.profiling.stages import profile_graph
from graphmodel.profiling.units import memory
from graphmodel.sharding.plan import ShardUnit, check_compiled, shard_units

_OPTIMIZERS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""How many numbers an optimizer keeps for each parameter that trains (`momentum` is SGD with momentum)."""


@dataclass(frozen=True)
class ShardRow:
    """What a process holds and communicates; every size is in bytes, for the process with the most.

    Attributes:
        world: the number of processes.
        parameters: its shards of all parameters.
        gradients: its shards of the gradients.
        optimizer: the optimizer's state for its shards.
        gathered: whole parameters and gradients that exist for a time: those of the root, two neighbouring units (one
            computes while the next one is gathered), and the gradient of one.
        buffers: running statistics and the like, which every process holds.
        activations: its inputs, and what they leave for the backward pass.
        received: what it receives in a training step.
        ddp: what it would hold under DistributedDataParallel, with the buckets for gradients.
        ddp_received: what it would receive in a step of that.
    """

    world: int
    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    buffers: int
    activations: int
    received: int
    ddp: int
    ddp_received: int

    @property
    def total(self) -> int:
        """All that it holds."""
        held = self.parameters + self.gradients + self.optimizer
        return held + self.gathered + self.buffers + self.activations


@dataclass(frozen=True)
class ShardTable:
    """A row for each number of processes; its text is a table.

    Attributes:
        name: the model's name.
        batch: samples of each process.
        optimizer: the optimizer.
        rows: what each number of processes costs.
    """

    name: str
    batch: int
    optimizer: str
    rows: tuple[ShardRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data."""
        return {**asdict(self), "rows": [{**asdict(row), "total": row.total} for row in self.rows]}

    def __str__(self) -> str:
        names = ("parameters", "gradients", "optimizer", "gathered", "activations", "total", "received", "ddp")
        lines: list[tuple[str, ...]] = [("processes", *names, "received by ddp")]
        for row in self.rows:
            sizes = [memory(getattr(row, name)) for name in names]
            lines.append((str(row.world), *sizes, memory(row.ddp_received)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        title = f"{self.name}: FSDP2, {self.optimizer}, {self.batch} samples for each process"
        return "\n".join([title, *("  ".join(map(str.rjust, line, widths)) for line in lines)])


def shard_table(
    module: CompiledModel,
    world_sizes: Sequence[int] = (8, 16, 32, 64, 128, 256),
    optimizer: str = "adamw",
    *,
    batch: int = 2,
) -> ShardTable:
    """Computes what FSDP2 by `shard_plan` costs each process; nothing is built, so a module on meta will do.

    FSDP2 cuts each parameter along its first dimension into equal shards, the last ones padded: a process never holds
    less than one row of a parameter, which is why many processes save less than their number suggests.

    A unit is gathered for each call, and again for its backward pass; then the shards of its gradient are summed, once.
    The root stays gathered in between. What one process receives is `(world - 1) / world` of what is gathered. FSDP2
    differs from this a little if a unit is called several times or follows something frozen: it keeps the first unit
    that trains, and prefetches one that it does not need.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> table = graphmodel.shard_table(graphmodel.compile(spec, device="meta"), world_sizes=(1, 8))
        >>> [row.parameters for row in table.rows]
        [44706048, 5588256]

    Args:
        module: what `compile` returned, on any device, not wrapped or sharded.
        world_sizes: numbers of processes.
        optimizer: `sgd`, `momentum` (SGD with momentum), `adam` or `adamw`. Its state has the type of the parameters.
        batch: samples of each process.

    Returns:
        The table; `print` shows it.

    Raises:
        CompileError: GM575 if it is not a compiled module, GM585 if a number of processes or the optimizer is not
            valid, GM555 if a training step of that size cannot be run on meta.
    """
    check_compiled(module, "shard_table")
    if optimizer not in _OPTIMIZERS:
        message = f"`optimizer` takes the name of an optimizer, not {optimizer!r}"
        raise fail("GM585", message, help=choices_help(str(optimizer), list(_OPTIMIZERS), "optimizers"))
    for number in (*world_sizes, batch):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            message = f"`world_sizes` and `batch` take positive numbers, not {number!r}"
            raise fail("GM585", message, help="write `world_sizes=(8, 16)`")
    graph = module.model_graph
    activations = profile_graph(module.optimized_graph, batch, rows_per_sample(graph)).activations
    costs = _Costs(module, optimizer, activations)
    return ShardTable(graph.spec.name, batch, optimizer, tuple(costs.row(world) for world in world_sizes))


class _Costs:
    """The units of a module, and what they cost for any number of processes."""

    def __init__(self, module: CompiledModel, optimizer: str, activations: int) -> None:
        self.units = shard_units(module)
        self.own = list(_own_parameters(self.units))
        self.backward = _with_backward(module.model_graph, self.units)
        self.states = _OPTIMIZERS[optimizer]
        self.steps = 4 * sum(p.requires_grad for own in self.own for p in own) if self.states == 2 else 0
        self.activations = activations
        self.buffers = sum(b.numel() * b.element_size() for b in module.buffers())

    def row(self, world: int) -> ShardRow:
        """The costs for a number of processes."""
        shards = [sum(_shard(p, world) for p in own) for own in self.own]
        trained = [sum(_shard(p, world) for p in own if p.requires_grad) for own in self.own]
        gathered = received = 0
        whole = [size * world for size in shards]
        for i, unit in enumerate(self.units):
            root = not unit.path
            together = whole[i] + (0 if root or i + 2 >= len(whole) else whole[i + 1]) + trained[i] * world
            gathered = max(gathered, together + (0 if root else whole[-1]))
            times = 1 if root else unit.calls * (2 if self.backward[i] else 1)
            received += (world - 1) * (shards[i] * times + trained[i])
        parameters = sum(p.numel() * p.element_size() for own in self.own for p in own)
        gradients = sum(p.numel() * p.element_size() for own in self.own for p in own if p.requires_grad)
        held = parameters + gradients * (2 + self.states) + self.steps + self.buffers + self.activations
        return ShardRow(
            world=world,
            parameters=sum(shards),
            gradients=sum(trained),
            optimizer=sum(trained) * self.states + self.steps,
            gathered=gathered if world > 1 else 0,
            buffers=self.buffers,
            activations=self.activations,
            received=received,
            ddp=held,
            ddp_received=2 * gradients * (world - 1) // world + (self.buffers if world > 1 else 0),
        )


def _own_parameters(units: Sequence[ShardUnit]) -> Iterator[list[nn.Parameter]]:
    """The parameters of each unit that no earlier one holds."""
    taken: set[int] = set()
    for unit in units:
        own = [p for p in unit.module.parameters() if id(p) not in taken]
        taken |= {id(p) for p in own}
        yield own


def _shard(parameter: nn.Parameter, world: int) -> int:
    """The bytes of a shard, with its padding."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return math.ceil(rows / world) * (parameter.numel() // max(rows, 1)) * parameter.element_size()


def _with_backward(graph: ModelGraph, units: Sequence[ShardUnit]) -> list[bool]:
    """Whether the backward pass runs through each unit: it, or something before it, trains."""
    targets = {name: str(node.target) for name, node in graph.nodes.items() if node.call in ("module", "attribute")}
    trains = [name for name, p in units[-1].module.named_parameters(remove_duplicate=False) if p.requires_grad]
    trained = {n for n, target in targets.items() if any(f"{name}.".startswith(f"{target}.") for name in trains)}
    behind: set[str] = set().union(*(nx.descendants(graph.network, name) for name in trained))
    found = []
    for i, unit in enumerate(units):
        calls = {n: t for n, t in targets.items() if _nested(t, unit.path)}
        before = [u for u in units[: i + 1] if u.trained and any(_nested(t, u.path) for t in calls.values())]
        found.append(not calls.keys().isdisjoint(behind) or bool(before and not calls.keys().isdisjoint(trained)))
    return found


def _nested(one: str, other: str) -> bool:
    """Whether one path is the other, or inside of it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
