"""Measures forward and backward time of each call of a module with `torch.profiler`, and the peak of its memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from graphmodel.components.structure import leaves
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.module import CompiledModel
from graphmodel.lower.random_inputs import random_inputs, weights_of
from graphmodel.passes.training_step import LiveBytes
from graphmodel.profiling.stages import ModelProfile, stage_name

_STEPS = 5
_MARK = "graphmodel:"
_BACKWARD = "autograd::engine::evaluate_function"


def measure(module: CompiledModel, found: ModelProfile, graph: ModelGraph) -> ModelProfile:
    """The profile with measured figures: medians of some training steps after one that does not count.

    The loss is the sum of the outputs. The module stays as it is: running statistics and gradients are put back.

    Args:
        module: the module, on the device to measure.
        found: its profile.
        graph: the graph that was profiled.
    """
    device = weights_of(module).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        return _measured(module, found, graph, device)


def _measured(module: CompiledModel, found: ModelProfile, profiled: ModelGraph, device: torch.device) -> ModelProfile:
    graph = module.model_graph
    rows = {name: found.batch * number for name, number in rows_per_sample(graph).items()}
    inputs = list(random_inputs(module, graph, rows))
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    training = [(part, part.training) for part in module.modules()]
    try:
        module.train()
        _step(module, inputs)
        peak = _peak(module, inputs, device)
        with _marked(module, profiled):
            times = [_times(module, inputs, device) for _ in range(_STEPS)]
    finally:
        for part, mode in training:
            part.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    phases = []
    for i in range(2):
        names = {name for each in times for name in each[i]}
        phases.append({name: median(each[i].get(name, 0.0) for each in times) for name in names})
    forward, backward = phases
    whole = forward.pop(""), backward.pop("")
    return found.with_times(forward, backward, whole, peak, _device_name(device))


def _step(module: nn.Module, inputs: list[Any]) -> None:
    for parameter in module.parameters():
        parameter.grad = None
    with record_function(f"{_MARK}forward"):
        outputs = module(*inputs)
        losses = [t.sum() for t in leaves(outputs) if isinstance(t, torch.Tensor) and t.requires_grad]
    with record_function(f"{_MARK}backward"):
        if losses:
            torch.autograd.backward(losses)


def _peak(module: nn.Module, inputs: list[Any], device: torch.device) -> int:
    if device.type == "cuda":
        for parameter in module.parameters():
            parameter.grad = None
        torch.cuda.reset_peak_memory_stats(device)
        _step(module, inputs)
        return int(torch.cuda.max_memory_allocated(device))
    weights = {t.untyped_storage()._cdata: t for t in (*module.parameters(), *module.buffers())}
    for parameter in module.parameters():
        parameter.grad = None
    with LiveBytes(weights.values()) as live:
        for tensor in leaves(inputs):
            live.add(tensor)
        _step(module, inputs)
    above: int = max(section.peak for section in live.sections.values())
    return above + sum(tensor.untyped_storage().nbytes() for tensor in weights.values())


@contextmanager
def _marked(module: CompiledModel, graph: ModelGraph) -> Iterator[None]:
    """Inside, each call of a module is a range of the profiler; a recomputation in the backward pass is none."""
    calls: dict[str, list[str]] = defaultdict(list)
    for node in graph.nodes.values():
        if node.call == "module":
            calls[str(node.target)].append(stage_name(node))
    count: dict[str, int] = defaultdict(int)
    ranges: list[Any] = []
    handles = []

    def before(path: str) -> Any:
        def hook(*_: Any) -> None:
            name = calls[path][count[path] % len(calls[path])]
            count[path] += 1
            ranges.append(record_function(f"{_MARK}call:{name}"))
            ranges[-1].__enter__()

        return hook

    def after(*_: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    for path in calls:
        part = module.get_submodule(path)
        handles += [part.register_forward_pre_hook(before(path)), part.register_forward_hook(after)]
    handles.append(module.register_forward_pre_hook(lambda *_: count.clear()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(module: nn.Module, inputs: list[Any], device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each call in the forward and the backward pass, and of the whole pass under an empty name.

    A backward operation belongs to the call whose forward operation made it: both have one sequence number.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        _step(module, inputs)
        if cuda:
            torch.cuda.synchronize(device)
    of_cpu = (event for event in found.events() if event.device_type.name == "CPU")
    events = sorted(of_cpu, key=lambda event: event.time_range.start)

    def seconds(event: Any) -> float:
        return float(event.device_time_total if cuda else event.cpu_time_total) / 1e6

    whole = {name: e for e in events for name in ("forward", "backward") if e.name == f"{_MARK}{name}"}
    turn = whole["backward"].time_range.start
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    spans = []
    for event in events:
        if event.name.startswith(f"{_MARK}call:") and event.time_range.start < turn:
            name = event.name.removeprefix(f"{_MARK}call:")
            forward[name] += seconds(event)
            spans.append((event.time_range.start, event.time_range.end, name))
    owner: dict[int, str] = {}
    at = 0
    for event in events:
        start = event.time_range.start
        if start >= turn:
            break
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        if event.sequence_nr >= 0:
            inside = at < len(spans) and spans[at][0] <= start
            owner[event.sequence_nr] = spans[at][2] if inside else ""
    for event in events:
        if event.name.startswith(_BACKWARD) and event.time_range.start >= turn:
            name = owner.get(event.sequence_nr, "")
            if name:
                backward[name] += seconds(event)
    forward[""], backward[""] = seconds(whole["forward"]), seconds(whole["backward"])
    return dict(forward), dict(backward)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"
