"""Measures: interleaved pairs of steps, peak memory, graphs, cold compile time; and the rows that they make."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

Step = Callable[[], Any]


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Attributes:
        relation: `>=` or `<=`.
        value: the bound.
    """

    relation: str
    value: float

    def met(self, figure: float) -> bool:
        return figure >= self.value if self.relation == ">=" else figure <= self.value

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


@dataclass
class Row:
    """One figure.

    Attributes:
        workload: what was run.
        metric: what was measured.
        figure: the value: the median if it was measured in pairs.
        unit: `x` for a ratio of times, else `s`, `MB`, `graphs`, ….
        baseline: what it is compared with; empty if the figure stands alone.
        low: the smallest value of the pairs.
        high: the largest.
        pairs: how many there were.
        target: the bound that it should keep.
        device: what it was measured on.
        note: sizes and conditions.
        times: median seconds of each side.
        run_on: `cpu` or `cuda`: what the suite ran on, which a figure without a device is of as well.
    """

    workload: str
    metric: str
    figure: float
    unit: str = "x"
    baseline: str = ""
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    target: Target | None = None
    device: str = ""
    note: str = ""
    times: dict[str, float] = field(default_factory=dict)
    run_on: str = "cpu"

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.figure)

    def data(self) -> dict[str, Any]:
        return {**asdict(self), "target": str(self.target or ""), "met": self.met}


class SkipWorkload(Exception):
    """A workload cannot run here; the message says why."""


@dataclass
class Failed:
    """Part of a workload that failed; the other parts go on.

    Attributes:
        workload: what was run.
        part: which part of it.
        error: why it failed.
    """

    workload: str
    part: str
    error: Exception

    @property
    def reason(self) -> str:
        said = str(self.error).strip().splitlines()
        return f"{type(self.error).__name__}: {said[0] if said else ''}"

    def __str__(self) -> str:
        return f"{self.part} failed: {self.reason}"


@dataclass
class Settings:
    """How the suite runs.

    Attributes:
        quick: tiny models and few pairs, to test the suite itself.
        pairs: how often each pair runs.
        device: `cpu` or `cuda`.
        compiled: whether steps are also measured under `torch.compile`.
        failures: the parts of workloads that failed.
    """

    quick: bool = False
    pairs: int = 9
    device: str = "cpu"
    compiled: bool = False
    failures: list[Failed] = field(default_factory=list)

    @contextmanager
    def attempt(self, workload: str, part: str) -> Iterator[None]:
        """Inside, an error ends this part of a workload alone."""
        try:
            yield
        except SkipWorkload:
            raise
        except Exception as error:
            self.failures.append(Failed(workload, part, error))
            print(f"{workload:20s} {self.failures[-1]}", file=sys.stderr, flush=True)

    def samples(self, cpu: int, cuda: int) -> int:
        """The batch size for the device: on a GPU a small one measures the launches of kernels alone."""
        return cuda if self.device == "cuda" and not self.quick else cpu


def device_name(device: str) -> str:
    """`1 thread of Intel Xeon …`, `NVIDIA H100`."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"CPU, 1 thread ({name})"


def api(name: str) -> Callable[..., Any]:
    """A public function of graphmodel.

    Raises:
        SkipWorkload: if this version has none.
    """
    import graphmodel

    if name not in graphmodel.__all__:
        raise SkipWorkload(f"`graphmodel.{name}` does not exist in this version")
    function: Callable[..., Any] = getattr(graphmodel, name)
    return function


def has_pass(name: str) -> None:
    """Checks that an optimization pass exists.

    Raises:
        SkipWorkload: if not.
    """
    from graphmodel.passes.pipeline import OPTIMIZATIONS, PIPELINE

    if name not in {each.name for each in (*PIPELINE, *OPTIMIZATIONS)}:
        raise SkipWorkload(f"the pass `{name}` does not exist in this version")


# -- time ------------------------------------------------------------------------------------------------------------


def seconds_of(step: Step, device: str = "cpu") -> float:
    """CPU time of this process on CPUs; time between events on CUDA."""
    if device == "cuda":
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000
    before = time.process_time()
    step()
    return time.process_time() - before


def interleave(
    contestants: Mapping[str, Step], pairs: int, device: str = "cpu", repeat: int = 1
) -> dict[str, list[float]]:
    """Seconds of each, turn by turn, the order reversed every other turn.

    Args:
        contestants: the steps by name.
        pairs: how many turns.
        device: `cpu` or `cuda`.
        repeat: how often a step runs in one turn, for steps of less than a millisecond.
    """

    def repeated(step: Step) -> Step:
        def run() -> None:
            for _ in range(repeat):
                step()

        return run if repeat > 1 else step

    if device == "cuda":
        repeat = max(repeat, 5)  # a single step of some milliseconds times the launches of its kernels
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for step in contestants.values():  # the first runs build caches, and choose kernels on a GPU
        for _ in range(3 if device == "cuda" else 1):
            repeated(step)()
    for turn in range(pairs):
        for name in list(contestants) if turn % 2 == 0 else list(contestants)[::-1]:
            times[name].append(seconds_of(repeated(contestants[name]), device) / repeat)
    return times


def ratio_row(
    workload: str, metric: str, times: Mapping[str, list[float]], over: str, under: str, settings: Settings, **more: Any
) -> Row:
    """The ratio of `over`'s times to `under`'s, pair by pair."""
    each = [a / b for a, b in zip(times[over], times[under], strict=True)]
    medians = {name: statistics.median(times[name]) for name in (over, under)}
    return Row(
        workload, metric, statistics.median(each), low=min(each), high=max(each), pairs=len(each), times=medians,
        device=device_name(settings.device), **more,
    )  # fmt: skip


# -- correctness and steps -------------------------------------------------------------------------------------------


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies the state in order; both list the trunk's layers first, then the heads'.

    Raises:
        AssertionError: if the number of tensors or a shape differs.
    """
    mine, theirs = source.state_dict(), target.state_dict()
    assert len(mine) == len(theirs), f"{len(mine)} tensors against {len(theirs)}"
    for (name, value), (other, into) in zip(mine.items(), theirs.items(), strict=True):
        assert value.shape == into.shape, f"{name} {tuple(value.shape)} against {other} {tuple(into.shape)}"
    target.load_state_dict(dict(zip(theirs, (v.clone() for v in mine.values()), strict=True)))


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of a result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for item in (value.values() if isinstance(value, dict) else value) for t in tensors(item)]


def check_equal(workload: str, found: Any, expected: Any, tolerance: float = 1e-5) -> float:
    """The largest difference of two results relative to the largest value.

    Raises:
        AssertionError: if it exceeds the tolerance: then a comparison of times means nothing.
    """
    mine, theirs = tensors(found), tensors(expected)
    assert len(mine) == len(theirs), f"{workload}: {len(mine)} outputs against {len(theirs)}"
    worst = 0.0
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape, f"{workload}: {tuple(a.shape)} against {tuple(b.shape)}"
        worst = max(worst, ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item())
    assert worst <= tolerance, f"{workload}: both sides differ by {worst:.2g}, allowed is {tolerance:g}"
    return worst


def total(value: Any) -> torch.Tensor:
    """A loss that reaches every tensor of a result."""
    return torch.stack([t.square().mean() for t in tensors(value)]).sum()


def forward_step(module: Callable[..., Any], arguments: list[Any]) -> Step:
    def run() -> Any:
        with torch.no_grad():
            return module(*arguments)

    return run


def backward_step(module: nn.Module, arguments: list[Any]) -> Step:
    def run() -> None:
        total(module(*arguments)).backward()
        module.zero_grad(set_to_none=True)

    return run


def training_step(module: nn.Module, arguments: list[Any]) -> Step:
    """Forward, backward and an SGD step."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def run() -> None:
        total(module(*arguments)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@contextmanager
def rng() -> Iterator[None]:
    """Leaves torch's generator as it was; inside it starts at 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, which rounds single precision on GPUs: for comparisons of results, not of times."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


# -- memory and graphs -----------------------------------------------------------------------------------------------


def peak_bytes(step: Step, device: str = "cpu") -> int:
    """The largest number of bytes that torch's allocator held during a step, above what it held before."""
    step()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def graphs_over(make: Callable[[Any], Callable[..., Any]], calls: list[list[Any]]) -> int:
    """How many graphs Dynamo makes of a module over several calls, without any graph break.

    Args:
        make: takes a backend, returns the compiled callable.
        calls: arguments of each call.
    """
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    function = make(counter)
    for arguments in calls:
        with torch.no_grad():
            function(*arguments)
    return int(counter.frame_count)


@contextmanager
def cold() -> Iterator[None]:
    """Inductor starts without caches; on CPU it compiles in this process and its compiler processes alone."""
    torch._dynamo.reset()
    with uncached():
        yield


@contextmanager
def uncached() -> Iterator[None]:
    """Inductor reads and writes no caches."""
    import torch._inductor.config as inductor

    threads = {} if torch.cuda.is_available() else {"compile_threads": 1}
    with inductor.patch(force_disable_caches=True, **threads):
        yield


def cold_seconds(step: Step, device: str = "cpu") -> float:
    """CPU time of a first call, that of the C++ compiler's processes included; wall time on CUDA."""
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    step()
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
