"""Translates names of VISSL's model (its state-dict keys) into names of the compiled module, and back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from graphmodel.components.registry import find_trunk
from graphmodel.graph.types import Component
from graphmodel.spec.model import HeadSpec, ModelSpec, VisslNaming

_INDEXED = re.compile(r"head(\d+)$")
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


class VisslKeys:
    """The names of one model's tensors in VISSL.

    Args:
        spec: the spec; its heads are in VISSL's order, or carry VISSL's index in their names (`head3`).
        components: the graph's components; trunk families translate their own keys.
        known: names that exist; if VISSL's lists leave two readings, the one that exists is taken.
    """

    def __init__(self, spec: ModelSpec, components: Mapping[str, Component], known: Collection[str]) -> None:
        self.components, self.known = components, set(known)
        self.heads: dict[int, HeadSpec] = {}
        indexed = all(_INDEXED.match(name) for name in spec.heads)
        for position, (name, head) in enumerate(spec.heads.items()):
            match = _INDEXED.match(name)
            self.heads[int(match.group(1)) if indexed and match else position] = head
        written = spec.weights.vissl if spec.weights is not None else None
        self.naming = written or VisslNaming(composite_heads=_composite(spec))

    def translate(self, key: str) -> str | None:
        """Our name for VISSL's, or None if the model has no such part."""
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

    def trunk_name(self, key: str, component: Component) -> str | None:
        """VISSL's name for a trunk's own key (without `trunk.`), or None if VISSL has no such tensor."""
        family = find_trunk(component.family)
        theirs = None if family is None else family.to_vissl_key(key, component.params)
        return None if theirs is None else f"trunk.{'base_model.' if self.naming.feature_extractor else ''}{theirs}"

    def head_names(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Each name of a head's tensor among `names`, and VISSL's name for it."""
        for index, head in self.heads.items():
            prefix = f"heads.{head.name}."
            composite = head.name in self.naming.composite_heads
            for name in names:
                if not name.startswith(prefix):
                    continue
                inner = name.removeprefix(prefix)
                for theirs, ours in _WEIGHT_NORM.items():
                    inner = inner.removesuffix(ours) + theirs if inner.endswith(ours) else inner
                if len(head.chain) > 1 and not composite:
                    yield name, f"heads.{inner}"  # a flat list: each module of the chain is a head of VISSL's
                elif len(head.chain) == 1 and composite:
                    yield name, f"heads.{index}.0.{inner}"
                else:
                    yield name, f"heads.{index}.{inner}"


def _composite(spec: ModelSpec) -> tuple[str, ...]:
    """The heads that VISSL builds from lists unless the spec says so: all of several heads if any has a chain."""
    several = len(spec.heads) > 1 and any(len(head.chain) > 1 for head in spec.heads.values())
    return tuple(spec.heads) if several else ()
