"""Infers which checkpoint key is which parameter, by names and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from graphmodel.build.vissl_state_dict_keys import VisslKeys
from graphmodel.graph.types import ModelGraph
from graphmodel.spec.model import WeightsSpec
from graphmodel.weights.reading import StateDict, Tensors

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DDP, torch.compile and trainers put before every key."""


@dataclass(frozen=True)
class KeyMap:
    """A way from a checkpoint's keys to a module's.

    Attributes:
        layout: what the checkpoint looks like: `vissl`, `graphmodel`, `library`.
        description: the map in words.
        keys: our key for each of the checkpoint's, None where it has none.
        source: the state dict that it maps.
    """

    layout: str
    description: str
    keys: Mapping[str, str | None]
    source: StateDict

    def matches(self, shapes: Mapping[str, torch.Size]) -> int:
        """How many keys meet a tensor of the same shape."""
        pairs = [(key, ours) for key, ours in self.keys.items() if ours is not None and ours in shapes]
        return sum(1 for key, ours in pairs if shapes[ours] == self.source.tensors[key].shape)


def infer(
    found: list[StateDict],
    graph: ModelGraph,
    shapes: Mapping[str, torch.Size],
    weights: WeightsSpec | None,
    dialect: str | None,
) -> KeyMap | None:
    """The map with the most matches over all state dicts of a checkpoint; the first wins a draw.

    Args:
        found: the state dicts of the checkpoint.
        graph: the compiled model's graph.
        shapes: the module's own keys and shapes.
        weights: what the spec says of the checkpoint (VISSL's STATE_DICT_KEY_NAME and prefixes).
        dialect: `vissl` takes the keys as VISSL's, None tries everything.
    """
    best: KeyMap | None = None
    score = -1
    for state in _preferred(found, weights):
        for candidate in _candidates(state, graph, shapes, weights, dialect):
            hits = candidate.matches(shapes)
            if hits > score:
                best, score = candidate, hits
    return best


def _preferred(found: list[StateDict], weights: WeightsSpec | None) -> list[StateDict]:
    """State dicts under the key that the spec names, where there are any."""
    if weights is None or not weights.key:
        return found
    named = [s for s in found if weights.key in s.path]
    return named or found


def _candidates(
    state: StateDict,
    graph: ModelGraph,
    shapes: Mapping[str, torch.Size],
    weights: WeightsSpec | None,
    dialect: str | None,
) -> Iterator[KeyMap]:
    keys = list(state.tensors)
    everything = {f"{c.name}.{k}" for c in graph.components.values() for k in c.meta.state_dict()} | set(shapes)
    vissl = VisslKeys(graph.spec, graph.components, everything).translate
    if weights is not None and (weights.remove_prefix or weights.append_prefix):
        yield KeyMap(
            "vissl",
            f"VISSL's names after REMOVE_PREFIX `{weights.remove_prefix}`, APPEND_PREFIX `{weights.append_prefix}`",
            _mapped(keys, lambda k: vissl(_renamed(k, weights))),
            state,
        )
    yield KeyMap("vissl", "VISSL's names", _mapped(keys, vissl), state)
    if dialect == "vissl":
        return
    yield KeyMap("graphmodel", "this module's own names", {k: k for k in keys}, state)
    trunks = [c.name for c in graph.components.values() if c.kind == "trunk"]
    for prefix in _prefixes(keys):
        cut = len(prefix)
        shown = f"`{prefix}` removed" if prefix else "as they are"
        stripped = {k: k[cut:] for k in keys if k.startswith(prefix)}
        yield KeyMap("graphmodel", f"this module's own names, {shown}", {k: stripped.get(k) for k in keys}, state)
        for trunk in trunks:
            yield KeyMap(
                "library",
                f"the library's names for `{trunk}`, {shown}",
                {k: f"{trunk}.{stripped[k]}" if k in stripped else None for k in keys},
                state,
            )
        yield KeyMap(
            "vissl",
            f"VISSL's names, {shown}",
            {k: _vissl_trunk(vissl, stripped[k]) if k in stripped else None for k in keys},
            state,
        )


def _vissl_trunk(vissl: Callable[[str], str | None], key: str) -> str | None:
    """VISSL's name, for files that carry `_feature_blocks.` without the `trunk.` before it too."""
    return vissl(key if key.startswith(("trunk.", "heads.")) else f"trunk.{key}")


def _mapped(keys: list[str], translate: Callable[[str], str | None]) -> dict[str, str | None]:
    return {key: translate(key) for key in keys}


def _renamed(key: str, weights: WeightsSpec) -> str:
    if weights.remove_prefix and key.startswith(weights.remove_prefix):
        key = key[len(weights.remove_prefix) :]
    return f"{weights.append_prefix}{key}"


def _prefixes(keys: list[str], most: int = 24) -> list[str]:
    """Dotted prefixes that many keys share, the empty one first."""
    counts: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        for end in range(1, min(len(parts), 5)):
            counts[".".join(parts[:end]) + "."] += 1
    shared = [p for p, n in counts.most_common() if n >= max(2, len(keys) // 20)]
    return ["", *shared[:most]]


def drop_skipped(tensors: Tensors, skip: tuple[str, ...]) -> Tensors:
    """The tensors without those whose key holds one of VISSL's SKIP_LAYERS."""
    return {k: v for k, v in tensors.items() if not any(s in k for s in skip)}
