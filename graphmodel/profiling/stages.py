"""What each call of a model costs: operations, parameters, activation memory, and measured time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from graphmodel.diagnostics import fail, first_line
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.text import info_text, target_text
from graphmodel.graph.types import ModelGraph, Node, head_name
from graphmodel.passes.training_step import saved_by_call, simulate_step
from graphmodel.profiling.flops import count_flops
from graphmodel.profiling.parameters import Parameters, total
from graphmodel.spec.grids import grid_of


@dataclass(frozen=True)
class StageCost:
    """One call.

    Attributes:
        name: its name in the graph and in the emitted code; see `stage_name`.
        calls: the path of the module that it calls, or the function's name.
        shape: its value; the batch is N.
        flops: floating-point operations of its forward pass for the batch, a multiply-add counted as two.
        parameters: parameters behind the call, those of an earlier call not counted again.
        activations: bytes that it saves for the backward pass, those that an earlier call saves not counted again.
        recomputed: they are dropped and computed again in the backward pass (`checkpoint`).
        forward: measured seconds of its forward pass; None if not measured.
        backward: measured seconds of its backward pass, recomputation included.
        grid: the grid whose head it belongs to.
    """

    name: str
    calls: str
    shape: str
    flops: int
    parameters: int
    activations: int
    recomputed: bool = False
    forward: float | None = None
    backward: float | None = None
    grid: str = ""


@dataclass(frozen=True)
class ModelProfile:
    """What a model costs for a batch.

    Attributes:
        name: the model's name.
        batch: the number of samples.
        stages: its calls in execution order, without those that cost nothing.
        flops: floating-point operations of the forward pass.
        parameters: the number of parameters.
        activations: bytes that a training step keeps at the end of the forward pass.
        peak: bytes of parameters, buffers, gradients, activations and temporary tensors at the worst moment of forward
            and backward; see `checkpoint` in the documentation of passes.
        device: the device of the measured figures; empty if nothing was measured.
        forward: measured seconds of the forward pass.
        backward: measured seconds of the backward pass.
        measured_peak: the measured peak, of the same tensors as `peak`; on CUDA of all that the allocator handed out.
    """

    name: str
    batch: int
    stages: tuple[StageCost, ...]
    flops: int
    parameters: int
    activations: int
    peak: int
    device: str = ""
    forward: float | None = None
    backward: float | None = None
    measured_peak: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return asdict(self)

    def sorted(self, key: str) -> tuple[StageCost, ...]:
        """The stages, those with the most of `key` first; `time` is forward and backward together."""

        def value(stage: StageCost) -> float:
            amount = (stage.forward or 0) + (stage.backward or 0) if key == "time" else getattr(stage, key)
            return float(amount or 0)

        return tuple(sorted(self.stages, key=value, reverse=True))

    def without_grids(self) -> ModelProfile:
        """The profile with one stage for the heads of each grid, in the place of the first."""
        found: dict[str, list[StageCost]] = {}
        for stage in self.stages:
            found.setdefault(f"grid {stage.grid}" if stage.grid else f"call {stage.name}", []).append(stage)
        return replace(self, stages=tuple(_together(stages) for stages in found.values()))

    def with_times(
        self,
        forward: Mapping[str, float],
        backward: Mapping[str, float],
        whole: tuple[float, float],
        peak: int,
        device: str,
    ) -> ModelProfile:
        """The profile with measured figures."""
        stages = tuple(replace(s, forward=forward.get(s.name), backward=backward.get(s.name)) for s in self.stages)
        return replace(self, stages=stages, forward=whole[0], backward=whole[1], measured_peak=peak, device=device)


def _together(stages: Sequence[StageCost]) -> StageCost:
    """One stage for the calls of a grid's heads, or the only one."""
    if len(stages) == 1:
        return stages[0]
    grid, last = stages[0].grid, {s.calls.split(".")[1]: s.shape for s in stages if s.calls.startswith("heads.")}
    shapes = list(dict.fromkeys(last.values()))
    sums: dict[str, Any] = {n: sum(getattr(s, n) for s in stages) for n in ("flops", "parameters", "activations")}
    for name in ("forward", "backward"):
        times = [time for s in stages if (time := getattr(s, name)) is not None]
        sums[name] = sum(times) if times else None
    return replace(
        stages[0],
        name=f"{grid} ({len(last)} heads)",
        calls=f"heads.{grid}_*",
        shape=shapes[0] if len(shapes) == 1 else f"{len(shapes)} shapes",
        **sums,
    )


def stage_name(node: Node) -> str:
    """What a call is named in a profile: by the block that it calls if its name in the graph is that of all blocks.

    The last block of a `nn.Sequential` returns what the whole of it returns, and has its name in the graph.
    """
    *_, holder, part = ("", "", *str(node.target).split("."))
    return f"{node.name}_{part}" if holder and part.isdecimal() and node.name.endswith(holder) else node.name


def profile_graph(graph: ModelGraph, batch: int, rows: Mapping[str, int] | None = None) -> ModelProfile:
    """What the calls of a graph cost, counted on the meta device.

    Args:
        graph: a graph after its passes.
        batch: the number of samples.
        rows: the number of rows of each input for one sample; an optimized graph has those of its model graph.

    Raises:
        CompileError: GM555 if a training step of that size cannot be run on the meta device.
    """
    rows = rows_per_sample(graph) if rows is None else rows
    try:
        saved = saved_by_call(graph, batch, rows)
        step = simulate_step(graph, batch, rows=rows)
    except Exception as error:  # whatever a module raises that cannot run on the meta device in training mode
        message = f"the activations at batch {batch} cannot be counted: {first_line(error)}"
        raise fail("GM555", message, help="another batch size may help: normalization needs several samples") from error
    flops = count_flops(graph, {name: number * batch for name, number in rows.items()})
    parameters = Parameters(graph)
    counted: set[int] = set()
    stages = []
    for node in graph.nodes.values():
        used = parameters.used_by(node)
        own = total({key: size for key, size in used.items() if key not in counted}).total
        counted |= used.keys()
        if node.call == "placeholder" or not (own or flops[node.name] or saved[node.name] or node.call == "module"):
            continue
        stages.append(
            StageCost(
                name=stage_name(node),
                calls=target_text(node.target),
                shape=info_text(node.info),
                flops=flops[node.name],
                parameters=own,
                activations=saved[node.name],
                recomputed=bool(node.facts.checkpoint),
                grid=grid_of(graph.spec, [head_name(node.component)]) if node.kind == "head" and node.component else "",
            )
        )
    return ModelProfile(
        name=graph.spec.name,
        batch=batch,
        stages=tuple(stages),
        flops=sum(flops.values()),
        parameters=parameters.of(graph.nodes.values()).total,
        activations=step.kept,
        peak=step.total,
    )
