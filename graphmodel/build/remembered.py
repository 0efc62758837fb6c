"""Remembers traced trunks from one build to the next, for programs that build a spec again whenever it is edited."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from graphmodel.build.bind_trunks import BoundTrunk
from graphmodel.tracing.image_sizes import Sample
from graphmodel.tracing.layout import FeatureRequest
from graphmodel.tracing.traced import TracedTrunk

TracedTrunks = dict[Hashable, TracedTrunk]
"""Traced trunks by what they were traced from."""

_memory: ContextVar[tuple[TracedTrunks, TracedTrunks] | None] = ContextVar("graphmodel_traced_trunks", default=None)


@contextmanager
def remembering(trunks: TracedTrunks) -> Iterator[None]:
    """Inside, a build takes what it can from `trunks`; afterwards these are the ones that it needed.

    If the build fails, nothing is forgotten.
    """
    used: TracedTrunks = {}
    token = _memory.set((trunks, used))
    try:
        yield
    except BaseException:
        trunks.update(used)
        raise
    else:
        trunks.clear()
        trunks.update(used)
    finally:
        _memory.reset(token)


def traced(
    trunk: BoundTrunk, requests: Sequence[FeatureRequest], sample: Sample, trace: Callable[[], TracedTrunk]
) -> TracedTrunk:
    """What `trace` returns, or what it returned for the same trunk, requests and shapes before."""
    memory, key = _memory.get(), _key(trunk, requests, sample)
    if memory is None or key is None:
        return trace()
    known, used = memory
    found = known.get(key) or trace()
    if not found.extras:  # these belong to the module that was traced
        used[key] = found
    return found


def _key(trunk: BoundTrunk, requests: Sequence[FeatureRequest], sample: Sample) -> Hashable | None:
    if trunk.component.given or not hasattr(trunk.params, "model_dump_json"):
        return None
    shapes = tuple((name, *((tuple(t.shape), t.dtype) for t in pair)) for name, pair in sample.items())
    try:
        params: Any = trunk.params.model_dump_json()
    except ValueError:  # a value that JSON cannot have
        return None
    spec = trunk.spec
    return (spec.family, params, spec.input_type, str(spec.pretrained), trunk.shapes, tuple(requests), shapes)
