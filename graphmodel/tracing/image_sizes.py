"""Other image sizes at which a graph is tried: what differs from the compiled size depends on the size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch

Sample = Mapping[str, tuple[Any, ...]]
"""For each input, its meta tensor in each run."""

Accepts = tuple[int | None, ...]
"""A per-sample shape; None marks a dimension that may have any size."""

Factors = tuple[Fraction, ...]


def factors(shape: Sequence[int]) -> list[Factors]:
    """Multiples of the compiled size to try in turn, for the dimensions of a per-sample shape that may change.

    Height and width grow by different multiples, so that code that mixes them up shows. If a trunk does not take that,
    it may take square images, or let one of the two change. Images never shrink: maps of a few pixels would not change.
    A sequence may be shorter, since a table of positions has a limit.

    >>> [tuple(map(str, f)) for f in factors((3, 224, 224))]
    [('2', '3'), ('2', '2'), ('1', '3'), ('2', '1')]
    """
    half = Fraction(1, 2)
    tried: dict[int, list[tuple[int | Fraction, ...]]] = {
        1: [(2,), (half,)],
        2: [(2, 3), (2, 1), (half, 1), (1, 3)],
        3: [(2, 3), (2, 2), (1, 3), (2, 1)],
        4: [(2, 2, 3), (1, 2, 3), (1, 2, 2), (2, 1, 1)],
    }
    return [tuple(map(Fraction, f)) for f in tried.get(len(shape), [])]


def spatial(shape: Sequence[int]) -> range:
    """The dimensions of a per-sample shape that may change: all but the channels of an image, all of a sequence.

    >>> spatial((3, 224, 224)), spatial((77, 512))
    (range(1, 3), range(0, 2))
    """
    return range(1 if len(shape) > 2 else 0, len(shape))


def resize(shape: Sequence[int], by: Factors) -> tuple[tuple[int, ...], Accepts] | None:
    """The shape at another size, and what a graph that runs there accepts; None if a dimension cannot be divided.

    >>> resize((3, 32, 100), (Fraction(1), Fraction(3)))
    ((3, 32, 300), (3, 32, None))
    """
    sizes, accepts = list(shape), [*shape]
    found: list[int | None] = list(accepts)
    for dim, factor in zip(spatial(shape), by, strict=True):
        size = shape[dim] * factor
        if size.denominator != 1:
            return None
        sizes[dim] = int(size)
        found[dim] = shape[dim] if factor == 1 else None
    return tuple(sizes), tuple(found)


def resized_samples(sample: Sample) -> Iterator[tuple[Sample, Mapping[str, Accepts]]]:
    """The sample with a third run at another size of its images, and what a graph that follows it accepts.

    The first input decides; further ones change along with it if they are images too.
    """
    shapes = {name: tuple(values[0].shape[1:]) for name, values in sample.items()}
    first_shape = next(iter(shapes.values()))
    for by in factors(first_shape):
        runs: dict[str, tuple[Any, ...]] = {}
        accepts: dict[str, Accepts] = {}
        for i, (name, values) in enumerate(sample.items()):
            shape = shapes[name]
            found = resize(shape, by) if i == 0 or len(shape) == len(first_shape) > 2 else (shape, shape)
            if found is None:
                break
            first = values[0]
            other = torch.empty((first.shape[0], *found[0]), dtype=first.dtype, device="meta")
            runs[name], accepts[name] = (*values[:2], other), found[1]
        else:
            yield runs, accepts


def fixed_sizes(sample: Sample) -> dict[str, Accepts]:
    """What a graph for the sample's own sizes accepts."""
    return {name: tuple(values[0].shape[1:]) for name, values in sample.items()}
