"""Splits a module into pipeline stages: consecutive parts of its graph with about equal work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import fail
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph, Node, Output
from graphmodel.lower.emit import ordered
from graphmodel.lower.module import CompiledModel, check_unedited
from graphmodel.lower.slicing import part_of
from graphmodel.lower.splitting import as_input, can_cross, changed_inputs, opened_graph, with_copies
from graphmodel.passes.on_meta import batch_size
from graphmodel.pipelining.cuts import blocks_of, cut
from graphmodel.profiling.flops import count_flops
from graphmodel.sharding.plan import check_compiled
from graphmodel.spec.model import InputSpec

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@dataclass(frozen=True)
class PipelineSplit:
    """A module as pipeline stages.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> split = graphmodel.split_pipeline(graphmodel.compile(spec, seed=0), stages=2)
        >>> len(split.modules), split.outputs
        (2, ('features',))

    Attributes:
        modules: the stages in order. The first takes the module's inputs; each returns a tuple of tensors, which the
            next one takes. They share the parameters of the module.
        outputs: names of the tensors that the last stage returns, in order.
        flops: operations of each stage for one sample.
    """

    modules: tuple[CompiledModel, ...]
    outputs: tuple[str, ...]
    flops: tuple[int, ...]

    def stage(self, index: int, device: str | torch.device = "cpu", group: Any = None) -> PipelineStage:
        """The stage of one process for a schedule of `torch.distributed.pipelining`, moved to its device.

        Args:
            index: the number of the stage, usually the rank of the process.
            device: where it runs.
            group: the process group; None for all processes.

        Raises:
            CompileError: GM578 if `index` is not the number of a stage.
        """
        from torch.distributed.pipelining import PipelineStage

        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.modules):
            message = f"the pipeline has stages 0 to {len(self.modules) - 1}, not {index!r}"
            raise fail("GM578", message, help="start one process for each stage, and pass its rank")
        place = torch.device(device)
        module = _Stage(self.modules[index].to(place), last=index == len(self.modules) - 1)
        return PipelineStage(module, index, len(self.modules), place, group=group)

    def arguments(self, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """What a schedule takes for the module's inputs: views one by one, since stages pass tensors alone.

        `schedule.step(*split.arguments(images, crops))`
        """
        return tuple(t for value in inputs for t in (value if isinstance(value, (tuple, list)) else (value,)))

    def named(self, results: Any) -> dict[str, torch.Tensor]:
        """The results of the last stage by the names of the module's outputs."""
        values = results if isinstance(results, (tuple, list)) else (results,)
        return dict(zip(self.outputs, values, strict=True))

    def loss(self, function: Callable[[dict[str, torch.Tensor], Any], torch.Tensor]) -> Callable[[Any, Any], Any]:
        """A loss function for a schedule, from one that takes the outputs by name and the target."""
        return lambda results, target: function(self.named(results), target)


class _Stage(nn.Module):
    """A stage as processes exchange values: views are arguments of their own, values and gradients contiguous."""

    def __init__(self, module: CompiledModel, *, last: bool) -> None:
        super().__init__()
        self.module, self.last = module, last
        inputs = module.model_graph.inputs.values()
        self.views = [None if item.views is None else len(item.views) for item in inputs]

    def forward(self, *tensors: torch.Tensor) -> Any:
        received = map(_with_contiguous_gradient, tensors)
        result = self.module(*(next(received) if n is None else list(islice(received, n)) for n in self.views))
        return result if self.last else tuple(value.contiguous() for value in result)


def _with_contiguous_gradient(value: torch.Tensor) -> torch.Tensor:
    if value.requires_grad:
        value = value.view_as(value)
        value.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
    return value


def split_pipeline(module: CompiledModel, stages: int = 2) -> PipelineSplit:
    """Splits a module into pipeline stages with about the same number of operations.

    Calls that share parameters stay in one stage, so that every parameter has one owner. What a later stage reads from
    an earlier one (skips, inputs, outputs that are ready early) travels through the stages between.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> heads = {"label": {"mlp": {"dims": ["auto", 10]}}}
        >>> model = graphmodel.compile({**spec, "heads": heads}, seed=0).eval()
        >>> split = graphmodel.split_pipeline(model, stages=2)
        >>> first, second = split.modules
        >>> images = torch.randn(2, 3, 64, 64)
        >>> torch.equal(split.named(second(*first(images)))["label"], model(images)["label"])
        True

        On each of two processes:

            schedule = Schedule1F1B(split.stage(rank, device), n_microbatches=4, loss_fn=split.loss(loss))
            schedule.step(images) if rank == 0 else schedule.step(target=labels)

    Args:
        module: what `compile` returned.
        stages: the number of stages.

    Returns:
        The stages, which share the module's parameters.

    Raises:
        CompileError: GM575 if it is not a compiled module, GM504 if its graph was edited, GM578 if the number of stages
            is not valid, GM579 if the graph cannot be cut into so many.
    """
    check_compiled(module, "split_pipeline")
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
        raise fail("GM578", f"`stages` takes a positive number, not {stages!r}", help="write `stages=2`")
    check_unedited(module, "a split")
    graph = opened_graph(module)
    blocks = blocks_of(graph)
    rows = {name: number * batch_size(graph) for name, number in rows_per_sample(graph).items()}
    work = {name: flops // batch_size(graph) for name, flops in count_flops(graph, rows).items()}
    calls = [block for block in blocks if any(graph.nodes[n].call != "placeholder" for n in block)]
    blocks = [b for b in blocks if b not in calls] + calls
    parts = [[n for b in blocks[:at] for n in b] for at in range(1, len(blocks))]
    crossings = [_crossing(graph, set(part)) for part in parts]
    first = len(blocks) - len(calls)
    allowed = [at >= first and found is not None for at, found in enumerate(crossings)]
    places = cut(blocks, work, allowed, stages) if stages > 1 else []
    if places is None:
        message = f"the graph cannot be cut into {stages} stages: {sum(allowed) + 1} at most"
        help = "calls of one module stay in one stage, and only tensors with a row for each sample pass on"
        raise fail("GM579", message, help=help)
    values = [crossings[at - 1] or [] for at in places]
    flat = {key: node for output in ordered(graph) for key, node in output.parts.items()}
    done = [set(parts[at - 1]) for at in places] + [set(graph.nodes)]
    made = []
    for i, behind in enumerate(done):
        taken = values[i - 1] if i else []
        given = dict(zip(values[i], values[i], strict=True)) if i < len(values) else flat
        own = _part(graph, done[i - 1] if i else set(), behind, taken, given)
        made.append(part_of(module, own, "tuple"))
    flops = [sum(work[n] for n in behind - (done[i - 1] if i else set())) for i, behind in enumerate(done)]
    return PipelineSplit(tuple(made), tuple(flat), tuple(flops))


def _crossing(graph: ModelGraph, before: set[str]) -> list[str] | None:
    """Values that pass from some calls to the rest, in order; None if one cannot.

    A value that is not a tensor, such as a size, is computed again from tensors that pass.
    """
    outputs = [n for output in graph.outputs.values() for n in output.parts.values()]
    wanted = [n for n in outputs if n in before]
    wanted += [ref for name, node in graph.nodes.items() if name not in before for ref in node.refs() if ref in before]
    found: set[str] = set()
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.nodes[name]
        if can_cross(node):
            found.add(name)
        elif node.call in ("function", "method") and not isinstance(node.info, TensorInfo) and node.refs():
            wanted += node.refs()
        else:
            return None
    return [name for name in graph.nodes if name in found]


def _part(
    graph: ModelGraph, before: set[str], behind: set[str], taken: Sequence[str], given: Mapping[str, str]
) -> ModelGraph:
    """The graph of one stage: the calls of `behind` that are not in `before`, and those that are computed again."""
    nodes: dict[str, Node] = {}
    inputs: dict[str, InputSpec] = {}
    accepts: dict[str, tuple[tuple[int | None, ...], ...]] = {}
    for name in taken:
        nodes[name], inputs[name] = as_input(graph.nodes[name], name)
        accepts[name] = (tuple(None for _ in graph.nodes[name].info.shape[1:]),)
    if not before:
        inputs, accepts = dict(graph.inputs), dict(graph.accepts)
    own = {name for name in behind if name not in before}
    wanted = [r for n in own for r in graph.nodes[n].refs()]
    while wanted:  # what does not pass is computed again
        name = wanted.pop()
        if name in before and name not in taken and name not in own:
            own.add(name)
            wanted += graph.nodes[name].refs()
    nodes.update({name: node for name, node in graph.nodes.items() if name in own and name not in taken})
    used = {node.component for node in nodes.values()}
    part = replace(
        graph,
        nodes=nodes,
        components={name: component for name, component in graph.components.items() if name in used},
        inputs=inputs,
        accepts=accepts,
        outputs={key: Output(key, {key: node}) for key, node in given.items()},
        structure=tuple(given),
        one_batch=graph.one_batch if not before else (),
    )
    changed = changed_inputs(part) if before else []
    return with_copies(part, changed) if changed else part
