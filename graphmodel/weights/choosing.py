"""Chooses which network of a checkpoint fills a model, and says so if others would do as well.

The order of keys in a file never decides. Networks that fit the trunk equally well and hold different values are
ranked by their names, the same way for every file, and the report warns and lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from graphmodel.diagnostics import CompileError, Diagnostic, choices_help, fail
from graphmodel.graph.copies import copies
from graphmodel.graph.types import ModelGraph
from graphmodel.weights.originals import Originals
from graphmodel.weights.reading import StateDict
from graphmodel.weights.readings import Reading

FIRST = ("teacher", "ema")
LAST = ("student", "target", "momentum", "encoder_k", "k", "key")
AVERAGED = ("teacher", "ema", "target", "momentum", "encoder_k", "k", "key")
"""Names of networks that follow another one; of a pair of trunks they fill the copy."""

HOW_SEVERAL = 'pass `network={"NAME": "TRUNK", …}` (`--weights-network NAME=TRUNK`, repeated)'

Under = Callable[[str], list[Reading]]
Networks = str | Mapping[str, "str | Sequence[str]"] | None


@dataclass(frozen=True)
class Choice:
    """A reading, and a warning if the checkpoint does not decide for it."""

    reading: Reading
    warning: Diagnostic | None = None


@dataclass
class _Group:
    """Readings that take the same tensors for the trunk: one network of the checkpoint."""

    readings: list[Reading]
    trunk: dict[str, str]
    total: int = 0

    @property
    def label(self) -> str:
        return max((r.label for r in self.readings), key=len)

    def tensor(self, ours: str) -> torch.Tensor:
        return self.readings[0].state.tensors[self.trunk[ours]]


class Chooser:
    """Chooses readings for one model.

    Args:
        graph: the model's graph.
        shapes: the shapes of the module's floating-point tensors.
    """

    def __init__(self, graph: ModelGraph, shapes: Mapping[str, torch.Size]) -> None:
        self.trunks = [c.name for c in graph.components.values() if c.kind == "trunk"]
        self.targets = [*self.trunks, *(f"heads.{name}" for name in graph.spec.heads)]
        self.shapes = shapes
        self.copies = copies(graph)
        names = frozenset(f"{c.name}.{name}" for c in graph.components.values() for name in c.meta.state_dict())
        self.originals = Originals(self.copies, names)
        self._most = sum(name.startswith("trunk") for name in shapes)

    def choose(self, whole: list[Reading], under: Under, networks: Networks = None) -> Choice | None:
        """The reading that covers the trunks best, or None if no tensor fits.

        Args:
            whole: readings for the whole model.
            under: lists the readings for one trunk or head.
            networks: the network to take, or the trunk (or head) that each network fills.

        Raises:
            CompileError: GM514 if a network is not there, or if it cannot be decided which network fills which trunk.
        """
        if networks is not None and not isinstance(networks, str):
            return self._by_map(under, networks)
        if len(self.trunks) == 1:
            trunk = self.trunks[0]
            whole = [self.originals.completed(reading) for reading in whole]
            return self._settle(self._best(self._named([*whole, *under(trunk)], networks)), trunk)
        # VISSL's models have one trunk: what has their names is a network for one of ours.
        completed = [self.originals.completed(reading) if reading.layout != "vissl" else reading for reading in whole]
        parts = {t: under(t) for t in self.trunks}
        if networks is not None:
            self._named([*whole, *(r for part in parts.values() for r in part)], networks)  # it is there at all
        own = self._best(self._groups(completed, networks))
        covered = max((_covered(g)[0] for g in own), default=0)
        if covered == self._most:
            return self._settle(own)
        several = self._assign({t: self._groups(part, networks) for t, part in parts.items()}, whole)
        if several is None or covered >= len(self._trunk_of(several.reading)):
            return self._settle(own)
        return several

    def _trunk_of(self, reading: Reading) -> dict[str, str]:
        return {ours: key for ours, key in reading.matches(self.shapes).items() if ours.startswith("trunk")}

    def _named(self, readings: Iterable[Reading], name: str | None) -> list[_Group]:
        """The networks that fit at all and have this name; there is one unless none fits."""
        readings = list(readings)
        found = self._groups(readings, name)
        if not found and (others := self._groups(readings)):
            labels = sorted({g.label for g in others} - {""})
            message = f"the checkpoint has no network `{name}` that fits"
            raise fail("GM514", message, help=choices_help(name, labels, "networks"))
        return found

    def _groups(self, readings: Iterable[Reading], name: str | None = None) -> list[_Group]:
        """The networks of a checkpoint that fit at all; those of this name if there is one."""
        groups: dict[frozenset[tuple[tuple[str, ...], str]], _Group] = {}
        for reading in readings:
            matched = reading.matches(self.shapes)
            if not matched:
                continue
            trunk = {o: k for o, k in matched.items() if o.startswith("trunk")} or matched
            group = groups.setdefault(
                frozenset((reading.state.path, k) for k in trunk.values()), _Group([], trunk, len(matched))
            )
            if len(matched) > group.total:
                group.readings.insert(0, reading)  # the same trunk, and heads with it
                group.trunk, group.total = trunk, len(matched)
            else:
                group.readings.append(reading)
        found = list(groups.values())
        if name is None:
            return found
        exact = [g for g in found if any(r.label == name.strip(".") for r in g.readings)]
        return exact or [g for g in found if any(_is_called(r.label, name) for r in g.readings)]

    def _best(self, groups: list[_Group]) -> list[_Group]:
        """The networks that cover as much of the trunk as any, in the order of preference.

        A deeper network covers the trunk as well, and is another network.
        """
        most = max((_covered(g) for g in groups), default=(0, 0))
        best = [g for g in groups if _covered(g) == most]
        if len(best) > 1:
            more = {id(g): len(g.readings[0].deeper(self.shapes)) for g in best}
            best = [g for g in best if more[id(g)] == min(more.values())]
        return sorted(best, key=lambda g: (-g.total, _rank(g.label), g.label.count("."), g.label))

    def _settle(self, best: list[_Group], trunk: str = "trunk") -> Choice | None:
        """The preferred one of networks that fit equally well."""
        if not best:
            return None
        named = _called_like(best, trunk)
        if len(named) == 1:
            return Choice(named[0].readings[0])
        taken = best[0]
        others = [g for g in best[1:] if not _same_values(taken, g)]
        if not others or _is_vissls_own(taken.label):
            return Choice(taken.readings[0])
        listed = ", ".join(f"{_shown(g.label)} ({len(g.trunk)} tensors)" for g in best)
        message = (
            f"the checkpoint is ambiguous: {len(others) + 1} networks fit equally well: {listed}; "
            f"{_shown(taken.label)} was chosen"
        )
        instead = _short(others[0].label, [g.label for g in best])
        help = f'to load that one instead, pass `network="{instead}"` (`--weights-network {instead}`)'
        return Choice(taken.readings[0], Diagnostic("GM514", message, None, help, "warning"))

    def _assign(self, parts: Mapping[str, list[_Group]], whole: Sequence[Reading]) -> Choice | None:
        """A network for each of several trunks: by its name, or if only one fits and it fits no other trunk."""
        chosen: dict[str, _Group] = {}
        unnamed: dict[str, _Group] = {}
        for trunk, groups in parts.items():
            best = self._best(groups)
            named = _called_like(best, trunk) or self._in_the_role(best, trunk)
            if len(named) == 1 or (best and all(_same_values(best[0], g) for g in best[1:])):
                (chosen if len(named) == 1 else unnamed)[trunk] = (named or best)[0]
            elif best:
                raise self._undecided(trunk, named or best)
        alike: set[str] = set()
        for trunk, group in unnamed.items():
            taken = [t for t, g in {**chosen, **unnamed}.items() if t != trunk and g.label == group.label]
            pairs = [t for t in taken if self._is_pair(t, trunk)]  # a copy and its original may start alike
            if len(pairs) < len(taken):
                raise self._undecided(trunk, [group], taken)
            if pairs and (trunk in self.copies or pairs[0] in chosen):
                alike.add(trunk)
        return self._with_heads({t: g for t, g in {**chosen, **unnamed}.items() if t not in alike}, whole)

    def _with_heads(self, trunks: dict[str, _Group], whole: Sequence[Reading]) -> Choice | None:
        """The networks of the trunks, and for each head the tensors that have its own names."""
        ambiguous: dict[str, list[_Group]] = {}
        chosen = dict(trunks)
        for target in self.targets:
            named = [_only(reading, target) for reading in whole] if target.startswith("heads.") else []
            groups = self._best(self._groups(named))
            if groups and all(_same_values(groups[0], g) for g in groups[1:]):
                chosen[target] = groups[0]
            elif groups:
                ambiguous[target] = groups
        choice = self._combined(chosen)
        if choice is None:
            return None
        warning = _ambiguous_heads(ambiguous) if ambiguous else None
        return Choice(self.originals.completed(choice.reading), warning)

    def _in_the_role(self, groups: list[_Group], trunk: str) -> list[_Group]:
        """The networks whose names are those of teachers for a copy, and of anything else for its original."""
        if trunk not in {*self.copies, *self.copies.values()}:
            return []
        return [g for g in groups if bool(_words(g.label) & set(AVERAGED)) is (trunk in self.copies)]

    def _is_pair(self, one: str, other: str) -> bool:
        return self.copies.get(one) == other or self.copies.get(other) == one

    def _undecided(self, trunk: str, groups: list[_Group], others: Sequence[str] = ()) -> CompileError:
        listed = ", ".join(f"{_shown(g.label)} ({len(g.trunk)} tensors)" for g in groups)
        if others:
            message = f"the network {listed} fits `{trunk}` and {', '.join(f'`{o}`' for o in others)} equally well"
        else:
            message = f"{len(groups)} networks of the checkpoint fit `{trunk}` equally well: {listed}"
        return fail("GM514", message, help=f"say which network fills which trunk: {HOW_SEVERAL}")

    def _combined(self, groups: Mapping[str, _Group]) -> Choice | None:
        """One reading of the networks that were chosen, each for its target."""
        if not groups:
            return None
        if len(groups) == 1:
            return Choice(next(iter(groups.values())).readings[0])
        tensors: dict[str, torch.Tensor] = {}
        keys: dict[str, str] = {}
        duplicates: dict[str, str] = {}
        unknown: dict[str, str] = {}
        for group in groups.values():
            reading = group.readings[0]
            start = ".".join(reading.state.path)
            names = {key: f"{start}.{key}" if start else key for key in reading.state.tensors}
            tensors |= {names[key]: tensor for key, tensor in reading.state.tensors.items()}
            duplicates |= {names[key]: names[taken] for key, taken in reading.duplicates.items()}
            unknown |= {names[key]: ours for key, ours in reading.unknown.items()}
            for key, ours in reading.keys.items():
                # One network may fill several trunks: each tensor then needs a key of its own.
                name = names[key] if names[key] not in keys else f"{names[key]} -> {ours}"
                tensors[name], keys[name] = reading.state.tensors[key], ours
        text = "; ".join(f"`{t}` from {_shown(g.label)}: {g.readings[0].description}" for t, g in groups.items())
        return Choice(Reading("several", text, StateDict((), tensors), "", keys, duplicates, unknown))

    def _by_map(self, under: Under, networks: Mapping[str, str | Sequence[str]]) -> Choice | None:
        chosen: dict[str, _Group] = {}
        for network, given in networks.items():
            for name in [given] if isinstance(given, str) else given:
                target = next((t for t in (name, f"trunks.{name}", f"heads.{name}") if t in self.targets), None)
                if target is None:
                    message = f"the model has no trunk or head `{name}`"
                    raise fail("GM514", message, help=choices_help(name, self.targets))
                best = self._best(self._named(under(target), network))
                if not best:
                    raise fail("GM511", f"no tensor of the checkpoint fits `{target}`")
                if not all(_same_values(best[0], g) for g in best[1:]):
                    raise self._undecided(target, best)
                if target in chosen:
                    raise fail("GM514", f"two networks are given for `{target}`", help="give one for each")
                chosen[target] = best[0]
        return self._combined(chosen)


def _only(reading: Reading, target: str) -> Reading:
    """What a reading has for one trunk or head."""
    return replace(reading, keys={key: ours for key, ours in reading.keys.items() if ours.startswith(f"{target}.")})


def _ambiguous_heads(found: Mapping[str, Sequence[_Group]]) -> Diagnostic:
    heads = ", ".join(f"`{target}`" for target in found)
    networks = ", ".join(dict.fromkeys(_shown(g.label) for groups in found.values() for g in groups))
    message = f"several networks of the checkpoint have weights for {heads} ({networks}); none was loaded"
    help = f"say which network fills which head, and name the trunks too: {HOW_SEVERAL}"
    return Diagnostic("GM514", message, None, help, "warning")


def _covered(group: _Group) -> tuple[int, int]:
    """How much of the trunk a network covers; one that fits heads alone covers none."""
    in_trunk = sum(ours.startswith("trunk") for ours in group.trunk)
    return in_trunk, 0 if in_trunk else group.total


def _rank(label: str) -> int:
    words = _words(label)
    if words & set(FIRST):
        return 0
    return 2 if words & set(LAST) else 1


def _words(label: str) -> set[str]:
    return set(re.split(r"[._]", label.lower())) | set(label.lower().split("."))


def _is_vissls_own(label: str) -> bool:
    """Whether it is what VISSL itself loads from its training checkpoints, beside what its losses keep."""
    return "classy_state_dict.base_model.model" in label


def _is_called(label: str, name: str) -> bool:
    """Whether a network's dotted name has the words of `name` one after the other; the top level's name is empty."""
    if not name:
        return not label
    return f".{name.strip('.')}." in f".{label}."


def _called_like(groups: list[_Group], trunk: str) -> list[_Group]:
    """The networks that have the name of a trunk of the spec: as a part of their own, else as a word of one."""
    name = trunk.removeprefix("trunks.")
    if name == trunk:
        return []
    exact = [g for g in groups if _is_called(g.label, name)]
    return exact or [g for g in groups if f"_{name}_" in f"_{g.label.replace('.', '_')}_"]


def _same_values(a: _Group, b: _Group) -> bool:
    if a.trunk.keys() != b.trunk.keys():
        return False
    return all(same_values(a.tensor(ours), b.tensor(ours)) for ours in a.trunk)


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are one, or equal dense tensors."""
    return a is b or (_is_plain(a) and _is_plain(b) and torch.equal(a, b))


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)


def _shown(label: str) -> str:
    return f"`{label}`" if label else "its top level"


def _short(label: str, labels: Sequence[str]) -> str:
    """The shortest part of a network's name that no other network has."""
    others = [other for other in labels if other != label]
    parts = label.split(".")
    for part in parts:
        if part and not any(_is_called(other, part) for other in others):
            return part
    return label
