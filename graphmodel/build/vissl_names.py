"""Translates names of VISSL's model (its state-dict keys) into names of the compiled module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from graphmodel.components.registry import find_trunk
from graphmodel.graph.types import Component
from graphmodel.spec.model import HeadSpec, ModelSpec

_INDEXED = re.compile(r"head(\d+)$")
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


class VisslNames:
    """The way from VISSL's keys to ours.

    Args:
        spec: the spec; its heads stand in VISSL's order, or carry VISSL's index in their names (`head3`).
        components: the graph's components; trunk families translate their own keys.
        known: names that exist; where VISSL's lists leave two readings, the one that exists is taken.
    """

    def __init__(self, spec: ModelSpec, components: Mapping[str, Component], known: Collection[str]) -> None:
        self.components, self.known = components, set(known)
        self.heads: dict[int, HeadSpec] = {}
        indexed = all(_INDEXED.match(name) for name in spec.heads)
        for position, (name, head) in enumerate(spec.heads.items()):
            match = _INDEXED.match(name)
            self.heads[int(match.group(1)) if indexed and match else position] = head

    def translate(self, key: str) -> str | None:
        """Our name for VISSL's, or None where the model has no such part."""
        candidates = list(self.candidates(key))
        for candidate in candidates:
            if candidate in self.known:
                return candidate
        return candidates[0] if candidates else None

    def candidates(self, key: str) -> Iterator[str]:
        """Every reading of a key, the likeliest first."""
        key = key.removeprefix("module.")
        holder, _, leaf = key.rpartition(".")
        if leaf in _WEIGHT_NORM:
            plain = f"{holder}.{_WEIGHT_NORM[leaf]}"
            yield from (c for c in self._read(plain) if c in self.known)
        yield from self._read(key)

    def _read(self, key: str) -> Iterator[str]:
        part, _, rest = key.partition(".")
        if part == "trunk":
            rest = rest.removeprefix("base_model.")
            for component in self.components.values():
                if component.kind == "trunk":
                    family = find_trunk(component.family)
                    inner = rest if family is None else family.from_vissl_key(rest, component.params)
                    if inner is not None:
                        yield f"{component.name}.{inner}"
        elif part == "heads":
            yield from self._head(rest)

    def _head(self, rest: str) -> Iterator[str]:
        index, _, inner = rest.partition(".")
        if not index.isdigit():
            return
        only = next(iter(self.heads.values())) if len(self.heads) == 1 else None
        if only is not None and len(only.chain) > 1:
            # A flat list of heads on one feature is one chain here: VISSL's head I is our module I.
            yield f"heads.{only.name}.{index}.{inner}"
        head = self.heads.get(int(index))
        if head is not None:
            yield f"heads.{head.name}.{inner}"
            if len(head.chain) == 1:
                # A composite of one module: VISSL counts it, we do not.
                yield f"heads.{head.name}.{inner.partition('.')[2]}"
