"""Which parameters and modules a spec freezes, by component, module path or name pattern."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphmodel.build.vissl_state_dict_keys import VisslKeys
from graphmodel.diagnostics import Collector, choices_help, did_you_mean
from graphmodel.graph.types import Component, trunk_path
from graphmodel.spec.document import dotted
from graphmodel.spec.model import HeadSpec, ModelSpec, TrunkSpec

TRAIN_BATCHNORM = "batchnorm in train mode: "
"""Begins a pattern that excludes the BatchNorm layers of a frozen trunk or head: their parameters are frozen, and they
normalise with the statistics of the batch in training, as those of a momentum encoder do."""


def own_patterns(spec: ModelSpec) -> tuple[str, ...]:
    """Patterns of the trunks and heads that are frozen by their own `freeze`, and of what that leaves in train mode."""
    parts: dict[str, TrunkSpec | HeadSpec] = {trunk_path(spec, name): trunk for name, trunk in spec.trunks.items()}
    parts |= {f"heads.{name}": head for name, head in spec.heads.items()}
    frozen = {path: part for path, part in parts.items() if part.freeze}
    moving = (f"{TRAIN_BATCHNORM}{path}" for path, part in frozen.items() if part.batchnorm == "train")
    return (*frozen, *moving)


def matches(name: str, pattern: str) -> bool:
    """Whether a module or parameter of that name falls under the pattern: itself, inside of it, or by wildcard."""
    if any(c in pattern for c in "*?["):
        parts = name.split(".")
        return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(len(parts), 0, -1))
    return name == pattern or name.startswith(f"{pattern}.")


def covers_any(pattern: str, paths: Collection[str]) -> bool:
    """Whether a pattern covers one of the names whose `with_parents` these are; quicker than to ask of each name."""
    if any(c in pattern for c in "*?["):
        return any(fnmatchcase(path, pattern) for path in paths)
    return pattern in paths


def with_parents(names: Iterable[str]) -> dict[str, None]:
    """The names, and the paths of all that they are in."""
    split = (name.split(".") for name in names)
    return {".".join(parts[:end]): None for parts in split for end in range(1, len(parts) + 1)}


def is_frozen(name: str, frozen: Iterable[str]) -> bool:
    """Whether any pattern covers the name."""
    return any(matches(name, p) for p in frozen)


def named(components: Mapping[str, Component]) -> list[str]:
    """Every name that a pattern can cover."""
    names: list[str] = []
    for path, component in components.items():
        names += with_parents([path])
        names += [f"{path}.{n}" for n, _ in component.meta.named_modules() if n]
        names += [f"{path}.{n}" for n in component.extras]
        names += [f"{path}.{n}" for n, _ in component.meta.named_parameters()]
    return list(dict.fromkeys(names))


def resolve_patterns(spec: ModelSpec, components: Mapping[str, Component], report: Collector) -> tuple[str, ...]:
    """The freeze patterns in this module's names; VISSL's parameter names (`vissl:…`) are translated.

    Patterns that cover nothing are reported.
    """
    resolved = list(own_patterns(spec))
    report_without_batchnorm(spec, components, resolved, report)
    if not spec.freeze:
        return tuple(resolved)
    names = named(components)
    paths = with_parents(names)
    vissl = VisslKeys(spec, components, names)
    for i, pattern in enumerate(spec.freeze):
        if pattern == "all":
            pattern = "*"
        if pattern.startswith("vissl:"):
            pattern = vissl.translate(pattern.removeprefix("vissl:")) or pattern
        if not covers_any(pattern, paths):
            report_uncovered(spec, i, pattern, names, report)
        resolved.append(pattern)
    return tuple(resolved)


def report_uncovered(spec: ModelSpec, i: int, pattern: str, names: list[str], report: Collector) -> None:
    """Reports that the pattern at a position of `freeze` covers none of these names."""
    span = spec.span(("freeze", i)) or spec.span(("freeze",))
    if report.is_full:
        report.error("GM211", f"`freeze: {pattern}` covers nothing", span, "", f"freeze[{i}]")
        return
    near, roots = did_you_mean(pattern, names), [n for n in names if n.startswith("heads.") or "." not in n]
    listed = choices_help("", [n for n in roots if n.count(".") < 2], "names begin with")
    help = near or listed
    report.error("GM211", f"`freeze: {pattern}` covers nothing", span, help, f"freeze[{i}]")


def report_without_batchnorm(
    spec: ModelSpec, components: Mapping[str, Component], patterns: Iterable[str], report: Collector
) -> None:
    """Reports each `batchnorm: train` of a trunk or head that has no BatchNorm."""
    for path in _in_train_mode(patterns):
        parts = [c.meta for name, c in components.items() if name == path or name.startswith(f"{path}.")]
        if any(isinstance(module, _BatchNorm) for part in parts for module in part.modules()):
            continue
        kind, _, name = path.partition(".")
        at = ("heads", name) if kind == "heads" else spec.trunks[name or "trunk"].at
        what = f"head `{name}`" if kind == "heads" else f"trunk `{name or kind}`"
        message = f"`batchnorm: train` covers nothing: the {what} has no BatchNorm layer"
        report.error("GM211", message, spec.span((*at, "batchnorm")), "leave it out", dotted((*at, "batchnorm")))


def _in_train_mode(frozen: Iterable[str]) -> list[str]:
    """The trunks and heads whose BatchNorm layers stay in train mode."""
    return [p.removeprefix(TRAIN_BATCHNORM) for p in frozen if p.startswith(TRAIN_BATCHNORM)]


def moving_norms(root: nn.Module, frozen: Iterable[str], path: str = "") -> list[tuple[str, nn.Module]]:
    """BatchNorm layers whose parameters are frozen by their trunk or head, and whose statistics are not.

    Args:
        root: the module to look through.
        frozen: the patterns.
        path: where `root` is in the names that the patterns are about; empty for the model itself.
    """
    frozen = tuple(frozen)
    within = _in_train_mode(frozen)
    if not within:
        return []
    norms = [(name, m) for name, m in root.named_modules(prefix=path) if isinstance(m, _BatchNorm)]
    own = [(name, m, [p for p in within if matches(name, p)]) for name, m in norms]
    return [(name, m) for name, m, parts in own if parts and not is_frozen(name, [p for p in frozen if p not in parts])]


def frozen_modules(root: nn.Module, frozen: Iterable[str], path: str = "") -> list[tuple[str, nn.Module]]:
    """Modules that are frozen: covered by a pattern, or with parameters of their own that are all covered.

    BatchNorm layers that a spec leaves in train mode are not among them.

    Args:
        root: the module to look through.
        frozen: the patterns.
        path: where `root` is in the names that the patterns are about; empty for the model itself.
    """
    frozen = tuple(frozen)
    moving = {name for name, _ in moving_norms(root, frozen, path)}
    found = []
    for name, module in root.named_modules(prefix=path):
        if name in moving:
            continue
        own = [f"{name}.{p}" if name else p for p, _ in module.named_parameters(recurse=False)]
        covered = bool(name) and is_frozen(name, frozen)
        if covered or (own and all(is_frozen(p, frozen) for p in own)):
            found.append((name, module))
    return found
