"""Nested arguments are walked the same way everywhere: named tuples and slices included."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from graphmodel.components.structure import equal_structure, hashable, leaves, map_structure, map_structures


class Pair(NamedTuple):
    first: int
    second: int


NESTED = [1, (2, Pair(3, 4)), {"a": slice(5, None, 6)}]


def test_mapping_keeps_containers_named_tuples_and_slices() -> None:
    assert map_structure(lambda x: x and x * 10, NESTED) == [10, (20, Pair(30, 40)), {"a": slice(50, None, 60)}]
    assert isinstance(map_structure(str, Pair(1, 2)), Pair)


def test_leaves_are_in_order() -> None:
    assert list(leaves(NESTED)) == [1, 2, 3, 4, 5, None, 6]


def test_several_structures_are_walked_side_by_side() -> None:
    assert map_structures(lambda a, b: (a, b), {"x": 1}, {"x": 2}) == {"x": (1, 2)}
    with pytest.raises(ValueError, match="structures differ"):
        map_structures(max, [1], [1, 2])


def test_equality_looks_at_types_and_keys() -> None:
    assert equal_structure([1, slice(1, 2)], (1, slice(1, 2)))
    assert not equal_structure([1], [1.0])
    assert not equal_structure({"a": 1}, {"b": 1})
    assert not equal_structure([1, 2], [1])
    assert not equal_structure(slice(1, 2), [1, 2, None])


def test_keys_differ_where_values_do() -> None:
    keys = [hashable(v) for v in ([1], (1,), [1.0], [True], slice(1), {"a": 1}, Pair(1, 2), (1, 2))]
    assert len(set(keys)) == len(keys)
    assert hashable([1, slice(1, 2)]) == hashable([1, slice(1, 2)])
