"""Grids in a resolved spec: which heads come from one, and the values of its axes."""

from __future__ import annotations

from collections.abc import Sequence

from graphmodel.spec.model import ModelSpec


def grid_of(spec: ModelSpec, heads: Sequence[str]) -> str:
    """The grid that all of these heads come from; empty if there is none."""
    found = {spec.heads[name].settings.grid if name in spec.heads else "" for name in heads}
    return found.pop() if len(found) == 1 else ""


def axes_of(spec: ModelSpec, heads: Sequence[str]) -> dict[str, list[str]]:
    """The values of each axis among the heads of a grid, in the order in which they first come."""
    axes: dict[str, dict[str, None]] = {}
    for name in heads:
        for axis, label in spec.heads[name].settings.labels.items():
            axes.setdefault(axis, {})[label] = None
    return {axis: list(values) for axis, values in axes.items()}


def axes_text(spec: ModelSpec, heads: Sequence[str]) -> str:
    """The sizes of the axes of a grid: `2 layers x 2 tokens x 13 lr`."""
    return " x ".join(f"{len(values)} {axis}" for axis, values in axes_of(spec, heads).items())
