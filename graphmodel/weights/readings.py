"""Every way in which the keys of a checkpoint can name a model's tensors, by prefixes and layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from graphmodel.build.vissl_state_dict_keys import VisslKeys
from graphmodel.graph.types import Component, ModelGraph
from graphmodel.spec.model import WeightsSpec
from graphmodel.weights.reading import StateDict, shape_of

WRAPPERS = ("module", "model")
"""Segments that DDP and trainers put before every key."""

TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Segments that torch.compile, FSDP and checkpointing add at any depth; no module of a network has such a name."""

MAX_PREFIXES = 64

Translate = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Reading:
    """One way to read a state dict.

    Attributes:
        layout: what the checkpoint looks like: `vissl`, `graphmodel`, `library`, `sequential`, `order`.
        description: the translation in words.
        state: the state dict.
        prefix: what the keys of this network start with, with its last dot.
        keys: our key for each of the checkpoint's that has one; no two have the same.
        unknown: keys of tensors that the trunk would have if it had more layers or parts, and their names there.
        duplicates: further keys for one of those tensors, and the key in `keys` that was taken instead.
        copied: trunks and heads that get the weights of others, as copies and their originals do.
    """

    layout: str
    description: str
    state: StateDict
    prefix: str
    keys: Mapping[str, str]
    duplicates: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    copied: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The network's dotted name in the checkpoint; empty for its top level."""
        return ".".join([*self.state.path, *self.prefix.split(".")]).strip(".")

    def matches(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """The checkpoint's key for each of our tensors of the same shape."""
        tensors = self.state.tensors
        return {
            ours: key for key, ours in self.keys.items() if ours in shapes and shapes[ours] == shape_of(tensors[key])
        }

    def deeper(self, names: Iterable[str]) -> list[str]:
        """Keys of weights after a network's last layer: those of a deeper network.

        Args:
            names: the names of our tensors; `layer1.0.…` and `layer1.1.…` make `layer1.1` the last layer of `layer1`.
        """
        if not self.unknown:
            return []
        last: dict[str, int] = {}
        for name in names:
            for parent, index in _numbered(name):
                last[parent] = max(index, last.get(parent, 0))
        return [
            key
            for key, ours in self.unknown.items()
            if self.state.tensors[key].is_floating_point()
            and any(index > last[parent] for parent, index in _numbered(ours) if parent in last)
        ]


class Reader:
    """Lists the readings of state dicts for one model.

    Args:
        graph: the model's graph.
        names: the keys of the compiled module; pruned stages are added from the graph.
        weights: what the spec says of the checkpoint (VISSL's prefixes).
    """

    def __init__(self, graph: ModelGraph, names: Iterable[str], weights: WeightsSpec | None) -> None:
        self.graph, self.weights = graph, weights
        self.components = dict(graph.components)
        self.everything = {f"{c.name}.{k}" for c in self.components.values() for k in c.meta.state_dict()} | set(names)
        self._unique_names: dict[str, set[str]] = {}
        self.trunks = [c for c in self.components.values() if c.kind == "trunk"]

    def whole(self, state: StateDict, *, only_vissl: bool = False) -> Iterator[Reading]:
        """Readings whose keys name the whole model, trunk and heads: VISSL's names, and this module's own."""
        vissl = self._vissl(self.components)
        weights = self.weights
        if weights is not None and (weights.remove_prefix or weights.append_prefix):
            told = f"REMOVE_PREFIX `{weights.remove_prefix}`, APPEND_PREFIX `{weights.append_prefix}`"
            yield self._read(
                "vissl", f"VISSL's names after {told}", state, "", lambda k: vissl.translate(_renamed(k, weights))
            )
        for prefix in self._prefixes(state, vissl.translate):
            shown = f", {_removed(prefix)}" if prefix else ""
            yield self._read("vissl", f"VISSL's names{shown}", state, prefix, vissl.translate)
        if not only_vissl:
            for prefix in self._prefixes(state, str):
                shown = f", {_removed(prefix)}" if prefix else ""
                yield self._read("graphmodel", f"this module's own names{shown}", state, prefix, str)

    def under(self, state: StateDict, target: str) -> Iterator[Reading]:
        """Readings whose keys name one trunk or head alone.

        Args:
            state: the state dict.
            target: `trunk`, `trunks.NAME` or `heads.NAME`.
        """
        start = f"{target}."
        component = self.components.get(target)

        def library(key: str) -> str:
            return start + key

        for prefix in self._prefixes(state, library, target):
            text = f"the library's names for `{target}`, {_removed(prefix)}"
            yield self._read("library", text, state, prefix, library)
        if component is None or component.kind != "trunk":
            return
        children = [name for name, _ in component.meta.named_children()]

        def sequential(key: str) -> str | None:
            index, _, rest = key.partition(".")
            return f"{start}{children[int(index)]}.{rest}" if index in positions else None

        positions = {str(i) for i in range(len(children))}
        if not set(children) & positions:  # a trunk that is a Sequential itself has numbers for names already
            for prefix in self._prefixes(state, sequential, target):
                text = f"positions of the children of `{target}` (nn.Sequential), {_removed(prefix)}"
                yield self._read("sequential", text, state, prefix, sequential)
        vissl = self._vissl({target: component})

        def trunk_of_vissl(key: str) -> str | None:
            # Some files have `_feature_blocks.` without the `trunk.` before it.
            return vissl.translate(key if key.startswith("trunk.") else f"trunk.{key}")

        for prefix in self._prefixes(state, trunk_of_vissl, target):
            yield self._read("vissl", f"VISSL's names, {_removed(prefix)}", state, prefix, trunk_of_vissl)

    def _vissl(self, components: Mapping[str, Component]) -> VisslKeys:
        return VisslKeys(self.graph.spec, components, self.everything)

    def _read(self, layout: str, text: str, state: StateDict, prefix: str, translate: Translate) -> Reading:
        found: dict[str, list[str]] = {}
        unknown: dict[str, str] = {}
        for key in state.tensors:
            plain = clean(key)
            ours = translate(plain[len(prefix) :]) if plain.startswith(prefix) else None
            if ours is not None and ours in self.everything:
                found.setdefault(ours, []).append(key)
            elif ours is not None and ours.startswith("trunk"):
                unknown[key] = ours
        first = {ours: min(keys, key=lambda k: (len(k), k)) for ours, keys in found.items()}
        others = {k: first[ours] for ours, keys in found.items() for k in keys if k != first[ours]}
        return Reading(layout, text, state, prefix, {key: ours for ours, key in first.items()}, others, unknown)

    def _prefixes(self, state: StateDict, translate: Translate, target: str = "") -> list[str]:
        """Prefixes without which keys name our tensors, the commonest first; the empty one and wrappers' always.

        A prefix may cut away a block inside of a network: `layer1.0.bn1.weight` without `layer1.0.` is the name of
        another layer. So a prefix counts if what remains is the name of at least one tensor that no deeper name
        ends with (`bn1.weight` ends `layer1.0.bn1.weight`).
        """
        unique = self._unique(target)
        counts: Counter[str] = Counter()
        keys = [clean(key) for key in state.tensors]
        for key in keys:
            counts.update(key[: cut + 1] for cut in (-1, *_dots(key)) if translate(key[cut + 1 :]) in unique)
        always = [p for p in _wrapped(keys) if p not in counts]
        return ["", *(p for p, _ in counts.most_common(MAX_PREFIXES) if p), *always]

    def _unique(self, target: str) -> set[str]:
        """Names below a component (of the whole model if empty) that do not end the name of a deeper tensor of it."""
        if target not in self._unique_names:
            start = f"{target}." if target else ""
            inner = {n.removeprefix(start) for n in self.everything if n.startswith(start)}
            ends = {name[cut + 1 :] for name in inner for cut in _dots(name)}
            self._unique_names[target] = {start + name for name in inner - ends}
        return self._unique_names[target]


def _numbered(name: str) -> Iterator[tuple[str, int]]:
    """The numbered layers that a tensor is in: what they are in, and their number there.

    >>> list(_numbered("trunk.layer1.0.downsample.1.weight"))
    [('trunk.layer1', 0), ('trunk.layer1.0.downsample', 1)]
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isascii() and part.isdigit() and len(part) < 10:
            yield ".".join(parts[:i]), int(part)


@lru_cache(maxsize=65536)
def clean(key: str) -> str:
    """A key without the segments that wrappers add at any depth."""
    if not any(segment in key for segment in TRANSPARENT):
        return key
    return ".".join(part for part in key.split(".") if part not in TRANSPARENT)


def _dots(key: str) -> list[int]:
    return [i for i, c in enumerate(key) if c == "."]


def _wrapped(keys: list[str]) -> list[str]:
    """The prefixes of wrappers that every key has: `module.`, `module.model.`."""
    found: list[str] = []
    prefix = ""
    while True:
        longer = next((f"{prefix}{w}." for w in WRAPPERS if all(k.startswith(f"{prefix}{w}.") for k in keys)), None)
        if longer is None or not keys:
            return found
        found.append(longer)
        prefix = longer


def _removed(prefix: str) -> str:
    return f"`{prefix}` removed" if prefix else "as they are"


def _renamed(key: str, weights: WeightsSpec) -> str:
    if weights.remove_prefix and key.startswith(weights.remove_prefix):
        key = key[len(weights.remove_prefix) :]
    return f"{weights.append_prefix}{key}"
