"""How the views of an input share trunk passes: one per resolution, per run of equal shapes, or per crop."""

from __future__ import annotations

from dataclasses import dataclass

from graphmodel.spec.model import InputSpec


@dataclass(frozen=True)
class Group:
    """One trunk pass over views of an input.

    Attributes:
        indices: positions of its views in the input's list.
        shape: their per-sample shape.
        label: the start of its nodes' names.
    """

    indices: tuple[int, ...]
    shape: tuple[int, ...]
    label: str


def groups_of(item: InputSpec) -> list[Group]:
    """The trunk passes over an input, in order."""
    if item.views is None:
        return [Group((0,), item.shape or (), item.name)]
    groups: list[tuple[list[int], tuple[int, ...]]] = []
    for i, shape in enumerate(item.views):
        same = [g for g in groups if g[1] == shape]
        if item.grouping == "consecutive":
            same = [groups[-1]] if groups and groups[-1][1] == shape else []
        elif item.grouping == "crop":
            same = []
        if same:
            same[0][0].append(i)
        else:
            groups.append(([i], shape))
    if len(groups) == 1:
        return [Group(tuple(groups[0][0]), groups[0][1], item.name)]
    sizes = [g[1][-1] for g in groups]
    unique = len(set(sizes)) == len(sizes)
    return [
        Group(tuple(indices), shape, f"{item.name}_{shape[-1] if unique else number}")
        for number, (indices, shape) in enumerate(groups)
    ]
