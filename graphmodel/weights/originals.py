"""Gives copies of trunks and heads the weights that a checkpoint has for their originals alone, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphmodel.weights.reading import StateDict
from graphmodel.weights.readings import Reading


class Originals:
    """The copies of a model.

    Args:
        pairs: the original of each copy, as module paths (`graphmodel.graph.copies.copies`).
        names: the names of all tensors that the model would have if nothing were pruned.
    """

    def __init__(self, pairs: Mapping[str, str], names: frozenset[str]) -> None:
        self._names = names
        self._copies: dict[str, list[str]] = {}
        for copy, original in pairs.items():
            copies = self._copies.setdefault(_part(original), [])
            if _part(copy) not in copies:
                copies.append(_part(copy))

    def completed(self, reading: Reading) -> Reading:
        """The reading with weights for each copy that it has nothing for.

        A copy starts with the weights of its original. If a checkpoint has the original's alone, both get these; if it
        has those of one copy alone, its original and the other copies get these too.
        """
        if not self._copies:
            return reading
        filled = {_part(ours) for ours in reading.keys.values()}
        sources: dict[str, str] = {}
        for original, copies in self._copies.items():
            have = [part for part in (original, *copies) if part in filled]
            if have[:1] == [original] or len(have) == 1:
                sources |= {part: have[0] for part in (original, *copies) if part not in filled}
        if not sources:
            return reading
        tensors, keys = dict(reading.state.tensors), dict(reading.keys)
        for part, source in sources.items():
            for key, ours in reading.keys.items():
                own = f"{part}.{ours.removeprefix(f'{source}.')}"
                if _part(ours) == source and own in self._names:
                    name = f"{key} -> {own}"
                    tensors[name], keys[name] = reading.state.tensors[key], own
        return replace(reading, state=StateDict(reading.state.path, tensors), keys=keys, copied=sources)


def _part(path: str) -> str:
    """The trunk or head that a path leads into: `trunks.teacher`, `heads.project`."""
    return ".".join(path.split(".")[:2])
