"""The workloads, one file for each group; importing this package registers them all."""

from benchmarks.workloads import (  # noqa: F401
    checkpoints,
    compilation,
    evaluation,
    extraction,
    frozen,
    heads,
    inputs,
    scale,
    self_supervised,
    small,
)
from benchmarks.workloads.registry import WORKLOADS

__all__ = ["WORKLOADS"]
