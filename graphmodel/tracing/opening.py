"""Opens a trunk: traces it at several image sizes and in both modes, and keeps the graph that serves most."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from graphmodel.components.features import INPUT_OF, Feature, FeatureError
from graphmodel.diagnostics import first_line
from graphmodel.tracing.both_modes import for_both_modes, with_dropout_modules
from graphmodel.tracing.decisions import Closable, recorded
from graphmodel.tracing.errors import SizeDecision, TraceError
from graphmodel.tracing.image_sizes import Sample, fixed_sizes, resized_samples
from graphmodel.tracing.layout import FeatureRequest
from graphmodel.tracing.states import restored_draws
from graphmodel.tracing.traced import TracedTrunk, finish
from graphmodel.tracing.tracer import NeverCalled, StageTracer, TracedRoot

MAX_RECORDED = 8
"""How many functions that decide by the image size are recorded as calls before the size is taken as fixed."""


def open_trunk(
    trunk: nn.Module, features: Sequence[Feature | FeatureRequest], sample: Sample, *, follow_sizes: bool = True
) -> TracedTrunk:
    """Traces `trunk` for `features`, in eval and in training mode, so that the result acts as the trunk in both.

    Args:
        trunk: the trunk on the meta device.
        features: what is wanted of it.
        sample: meta tensors of two batch sizes for each input; the first is the trunk's main input, the others are
            passed by keyword.
        follow_sizes: whether to find out which image sizes the graph serves; otherwise it serves that of the sample.

    Returns:
        The calls that the features need, nothing else.

    Raises:
        TraceError: if the trunk's own code cannot be followed, or behaves differently in training mode in a way that
            no module can represent.
        FeatureError: if a feature does not exist in the requested layout.
    """
    requests = [f if isinstance(f, FeatureRequest) else FeatureRequest(f) for f in features]
    job = _Job(trunk, requests, {})
    before = [(m, m.training) for m in trunk.modules()]
    try:
        for resized, accepts in resized_samples(sample) if follow_sizes else ():
            opened = job.at_all_sizes(resized)
            if opened is not None:
                return replace(opened, accepts=accepts)
        return replace(job.at_one_size(sample), accepts=fixed_sizes(sample))
    finally:
        for module, mode in before:
            module.training = mode


@dataclass(frozen=True)
class _Job:
    """What is traced, once or several times.

    Attributes:
        trunk: the trunk.
        requests: the features that are wanted of it.
        results: closed calls and what they returned.
    """

    trunk: nn.Module
    requests: Sequence[FeatureRequest]
    results: dict[Hashable, Any]

    @property
    def whole(self) -> bool:
        """Nothing inside is wanted, so the trunk may stay closed as a whole: one call, its own code as it is."""
        return not any(r.feature.taps or r.feature.runner is not None for r in self.requests)

    def at_one_size(self, sample: Sample) -> TracedTrunk:
        """A graph for the image size of the sample."""
        try:
            return self.in_both_modes(sample)
        except TraceError as error:
            if not self.whole:
                raise
            try:
                return self.in_both_modes(sample, closed=True)
            except TraceError:
                raise error from None

    def at_all_sizes(self, sample: Sample) -> TracedTrunk | None:
        """A graph that follows the image size, checked with the third run of `sample`; None if there is none."""
        functions: list[Closable] = []
        stored = _stored_numbers(self.trunk)
        try:
            while len(functions) <= MAX_RECORDED:
                try:
                    opened = self.in_both_modes(sample, functions)
                    # A size that a module stores on itself reaches other modules unseen.
                    if _stored_numbers(self.trunk) == stored:
                        return opened
                    break
                except SizeDecision as decision:
                    if decision.function is None:
                        break
                    functions.append(decision.function)
        except (TraceError, FeatureError):
            pass
        if _stored_numbers(self.trunk) != stored:
            self.results.clear()  # what is remembered of a call does not store the size again
        try:
            return self.in_both_modes(sample, closed=True) if self.whole else None
        except (TraceError, FeatureError):
            return None

    def in_both_modes(self, sample: Sample, functions: Sequence[Closable] = (), *, closed: bool = False) -> TracedTrunk:
        """One graph of the traces in training and in eval mode."""
        train_trace = self.traced(self.trunk.train(), sample, functions, closed)
        stored = self.counted()
        try:
            eval_trace = self.traced(self.trunk.eval(), sample, functions, closed)
        except NeverCalled:  # an auxiliary classifier exists in training mode only
            return with_dropout_modules(train_trace, self.trunk)
        changed = [name for name, number in self.counted().items() if stored.get(name, number) != number]
        if changed and not closed:
            raise TraceError(
                f"the trunk's own code changes the number `{changed[0]}` in every call, and a graph has the one of now",
                "keep it in a buffer, or read only the trunk's own result",
            )
        self.check_layouts(eval_trace, train_trace)
        return for_both_modes(eval_trace, train_trace, self.trunk)

    def check_layouts(self, eval_trace: TracedTrunk, train_trace: TracedTrunk) -> None:
        """Refuses features that are arranged differently in training: a map has no place for tokens that are dropped.

        A sequence may be shorter in training, as long as it has the same prefix tokens and channels.
        """
        for name, layout in eval_trace.layouts.items():
            other = train_trace.layouts[name]
            shape, trained = (tuple(t.features[name].meta["values"][0].shape) for t in (eval_trace, train_trace))
            width = 1 if layout.layout == "nchw" else -1
            known = replace(layout, grid=other.grid) if layout.layout == "nlc" else layout
            if known != other or shape[width] != trained[width]:
                raise TraceError(
                    f"the feature `{name}` is {_dims(shape)} in eval mode and {_dims(trained)} in training mode",
                    "tokens that the trunk drops in training (`patch_drop_rate`) leave no map: do without, or read "
                    "`features` or a module of its own (`blocks.0.mlp`), without `layout`",
                )

    def counted(self) -> dict[str, float]:
        """The numbers that opened modules keep as plain attributes, by name."""
        found: dict[str, float] = {}
        for path, module in self.trunk.named_modules():
            if path in self.opened_paths:
                numbers = {k: v for k, v in vars(module).items() if type(v) in (int, float)}
                found.update({f"{path}.{key}".lstrip("."): value for key, value in numbers.items()})
        return found

    @cached_property
    def opened_paths(self) -> set[str]:
        """Paths of the modules whose own code is traced."""
        taps = [tap.removesuffix(INPUT_OF) for r in self.requests for tap in r.feature.taps]
        return StageTracer(taps, {}, {}).open_paths

    def traced(self, trunk: nn.Module, sample: Sample, functions: Sequence[Closable], closed: bool) -> TracedTrunk:
        """One trace, in the mode that the trunk is in."""
        main, *extras = sample
        taps = [tap.removesuffix(INPUT_OF) for r in self.requests for tap in r.feature.taps]
        inputs = {"x": sample[main], **{name: sample[name] for name in extras}}
        tracer = StageTracer(None if closed else taps, inputs, self.results)
        try:
            with recorded(functions, tracer.call_function), restored_draws() as drawn:
                graph = tracer.trace(TracedRoot(trunk, self.requests, tracer))
                if drawn():
                    raise TraceError(
                        "the trunk's own code draws random numbers with Python or numpy, which a graph cannot",
                        "draw them with torch, or in a module of its own, or read only the trunk's own result",
                    )
            tracer.raise_decision()
            if tracer.texts:
                raise tracer.texts[0][1]
        except (TraceError, FeatureError):
            tracer.raise_decision()
            raise
        except Exception as error:  # the trunk's own code may raise anything
            tracer.raise_decision()
            raise TraceError(f"{type(error).__name__}: {first_line(error)}") from error
        return finish(graph, list(sample), tracer.layouts, tracer.tensors.constants)


def _dims(shape: Sequence[int]) -> str:
    """`N×17×24`"""
    return "×".join(["N", *map(str, shape[1:])])


def _stored_numbers(trunk: nn.Module) -> list[dict[str, Any]]:
    """The numbers and shapes that modules keep as plain attributes."""

    def numbers(value: Any) -> bool:
        return isinstance(value, int) or (isinstance(value, (tuple, list)) and all(isinstance(v, int) for v in value))

    return [
        {k: copy(v) for k, v in vars(module).items() if k != "training" and numbers(v)} for module in trunk.modules()
    ]
