"""Walks nested arguments and results: lists, tuples, named tuples, mappings and slices, in one place for all layers.

Whatever is none of these is a leaf: a tensor, a number, a module, a reference to another call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

_LEAVES = (str, int, float, type(None))


def is_namedtuple(value: Any) -> bool:
    """Whether a value is an instance of a named tuple."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def children(value: Any) -> list[tuple[Any, Any]] | None:
    """The items of a container with their keys, in order; None for a leaf.

    >>> children({"a": 1}), children((1, 2)), children(slice(0, 3))
    ([('a', 1)], [(0, 1), (1, 2)], [('start', 0), ('stop', 3), ('step', None)])
    >>> children("text") is None
    True
    """
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, _LEAVES):  # most values by far, and `Mapping` is slow to ask
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, slice):
        return [("start", value.start), ("stop", value.stop), ("step", value.step)]
    return None


def rebuilt(value: Any, items: list[Any]) -> Any:
    """A container like `value` with other items.

    Named tuples keep their class; other subclasses of list, tuple and mapping become the plain type.
    """
    if is_namedtuple(value):
        return type(value)(*items)
    if isinstance(value, tuple):
        return tuple(items)
    if isinstance(value, list):
        return items
    if isinstance(value, slice):
        return slice(*items)
    return dict(zip(value, items, strict=True))


def map_structure(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every leaf replaced by `function(leaf)`.

    Example:
        >>> map_structure(lambda x: x + 1, [1, (2, 3), {"a": 4}])
        [2, (3, 4), {'a': 5}]
    """
    if isinstance(value, (list, tuple)):
        return rebuilt(value, [map_structure(function, item) for item in value])
    items = children(value)
    if items is None:
        return function(value)
    return rebuilt(value, [map_structure(function, item) for _, item in items])


def map_structures(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """The same for several values of one structure: `function(leaf, *leaves of the others)`.

    Example:
        >>> map_structures(lambda a, b: a * b, [2, {"x": 3}], [10, {"x": 20}])
        [20, {'x': 60}]

    Raises:
        ValueError: if the structures differ.
    """
    items = children(value)
    if items is None:
        return function(value, *others)
    found: list[list[Any]] = []
    for other in others:
        theirs = children(other)
        if theirs is None or [k for k, _ in theirs] != [k for k, _ in items]:
            raise ValueError(f"structures differ: {type(value).__name__} and {type(other).__name__}")
        found.append([item for _, item in theirs])
    own = [item for _, item in items]
    return rebuilt(value, [map_structures(function, *group) for group in zip(own, *found, strict=True)])


def leaves(value: Any) -> Iterator[Any]:
    """Every leaf in order.

    >>> list(leaves([1, (2, {"a": 3}), slice(4, None)]))
    [1, 2, 3, 4, None, None]
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif (items := children(value)) is None:
        yield value
    else:
        for _, item in items:
            yield from leaves(item)


def equal_structure(first: Any, second: Any, equal: Callable[[Any, Any], bool] | None = None) -> bool:
    """Whether two values have the same structure and equal leaves.

    Lists and tuples count as the same kind of container, mappings must have the same keys in the same order.

    Args:
        first: a value.
        second: another.
        equal: compares two leaves; by default they must have the same type and be equal.

    Example:
        >>> equal_structure([1, {"a": 2}], (1, {"a": 2})), equal_structure([1], [True])
        (True, False)
    """
    own, theirs = children(first), children(second)
    if own is None or theirs is None:
        if own is not theirs:
            return False
        return (equal or _equal)(first, second)
    if _kind(first) is not _kind(second) or [k for k, _ in own] != [k for k, _ in theirs]:
        return False
    return all(equal_structure(a, b, equal) for (_, a), (_, b) in zip(own, theirs, strict=True))


def hashable(value: Any, leaf: Callable[[Any], Hashable] = lambda leaf: leaf) -> Hashable:
    """A key that is equal for equal structures of equal leaves; `leaf` makes a leaf hashable.

    The type of each leaf is part of the key, so `1`, `1.0` and `True` differ.

    >>> hashable([1, (2, 3)]) == hashable([1, (2, 3)]), hashable([1]) == hashable([True])
    (True, False)
    """
    items = children(value)
    if items is None:
        return (type(value), leaf(value))
    exact = tuple if type(value) is tuple else _kind(value)
    return (type(value) if is_namedtuple(value) else exact, *((key, hashable(item, leaf)) for key, item in items))


def _equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(operator.eq(first, second))


def _kind(value: Any) -> type:
    if isinstance(value, slice):
        return slice
    return dict if isinstance(value, Mapping) else list
