"""Facts about a call besides what it computes: names of features, order constraints, and decisions of passes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

_OF_VALUE: dict[str, Any] = {"of": "value"}
_ORDER: dict[str, Any] = {"of": "order"}


@dataclass(frozen=True)
class Pair:
    """A convolution or linear layer and the BatchNorm that reads its result, inside of a called module.

    Attributes:
        owner: the path of the module whose code calls both; empty for the called module itself.
        layer: the name of the layer in it.
        norm: the name of the BatchNorm in it.
    """

    owner: str
    layer: str
    norm: str

    def path_of(self, name: str) -> str:
        """The path of the layer or of the BatchNorm from the called module."""
        return f"{self.owner}.{name}" if self.owner else name


class Pairs(tuple[Pair, ...]):
    """Several pairs; as text their number."""

    def __str__(self) -> str:
        return str(len(self))


@dataclass(frozen=True)
class Facts:
    """Facts about a node; a field with its default value states nothing.

    A fact belongs to the node's value (it moves to the node that takes over the value), to the order of calls (a node
    that has one cannot be replaced by another), or to the call itself (it ends with the call).

    Attributes:
        features: names of the trunk's features that the value is.
        grouped_views: number of views that go through the call as one batch.
        copied: why the value is copied.
        in_place: a later call changes the value in place, or the call reads such a value: its order is fixed.
        changed_by: names of the calls that change the value in place.
        frozen: every parameter behind the call is frozen.
        batch_statistics: BatchNorm inside of the frozen call uses the statistics of the batch in training.
        checkpoint: the number of its segment, whose activations are recomputed in the backward pass; 0 for none.
        channels_last: the call runs in channels-last memory format.
        folded: frozen layers inside of the called module that run with their BatchNorm folded into their weights.
    """

    features: tuple[str, ...] = field(default=(), metadata=_OF_VALUE)
    grouped_views: int = 0
    copied: str = ""
    in_place: bool = field(default=False, metadata=_ORDER)
    changed_by: tuple[str, ...] = field(default=(), metadata=_ORDER)
    frozen: bool = False
    batch_statistics: bool = False
    checkpoint: int = 0
    channels_last: bool = False
    folded: Pairs = Pairs()  # noqa: RUF009 (a tuple is immutable)

    def stated(self) -> dict[str, Any]:
        """The facts that differ from their defaults, by name.

        >>> Facts(frozen=True, grouped_views=2).stated()
        {'grouped_views': 2, 'frozen': True}
        """
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def of_order(self) -> dict[str, Any]:
        """Those of them that fix the order of calls."""
        return {name: value for name, value in self.stated().items() if name in _named(_ORDER)}

    def of_call(self) -> dict[str, Any]:
        """Those of them that belong to the call itself."""
        return {k: v for k, v in self.stated().items() if k not in _named(_ORDER) and k not in _named(_OF_VALUE)}

    def holds_values_of(self, other: Facts) -> bool:
        """Whether these facts include every fact of `other` about its value."""
        return all(set(getattr(other, name)) <= set(getattr(self, name)) for name in _named(_OF_VALUE))

    def taking_over(self, other: Facts) -> Facts:
        """These facts together with those of `other` about its value."""
        merged: dict[str, Any] = {
            name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name)))) for name in _named(_OF_VALUE)
        }
        return replace(self, **merged)


def _named(kind: Any) -> frozenset[str]:
    return frozenset(f.name for f in fields(Facts) if f.metadata == kind)


NO_FACTS = Facts()
