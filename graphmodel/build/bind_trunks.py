"""Binds the trunks of a spec: families looked up, parameters validated, modules built on the meta device."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from graphmodel.build.copies import copied, why_not_copied
from graphmodel.build.params import parse_params
from graphmodel.components.construct import build_on_meta, meta_copy
from graphmodel.components.family import InvalidTrunkParams, TrunkFamily
from graphmodel.components.features import INPUT_OF, Feature, part_of
from graphmodel.components.library.guard import do_weights_follow
from graphmodel.components.library.model_names import unknown_trunk_help
from graphmodel.components.library.trunk import LibraryParams, LibraryTrunk
from graphmodel.components.registry import find_trunk, trunk_names
from graphmodel.components.signature import PlainTrunk
from graphmodel.diagnostics import Collector, choices_help, did_you_mean, fail, first_line
from graphmodel.graph.types import Component, trunk_path
from graphmodel.spec.document import dotted
from graphmodel.spec.model import ModelSpec, Source, TrunkSpec
from graphmodel.spec.recovery import LOST
from graphmodel.tracing.layout import FeatureRequest


@dataclass(frozen=True)
class BoundTrunk:
    """A trunk on the meta device with the family that names its features.

    Attributes:
        spec: what the spec says of it.
        family: its family.
        params: its validated parameters.
        component: it as a component of the graph.
        shapes: the per-sample shapes of all inputs that go through it.
    """

    spec: TrunkSpec
    family: TrunkFamily[Any]
    params: Any
    component: Component
    shapes: tuple[tuple[int, ...], ...]

    @property
    def module(self) -> nn.Module:
        return self.component.meta

    def features(self) -> list[Feature]:
        return list(self.family.features(self.params, self.module))

    def find(self, name: str | None) -> Feature | None:
        """The feature of that name, alias or module path; the default feature for None."""
        if name is None:
            name = self.family.default(self.params, self.module)
        found = self.family.find(name, self.params, self.module)
        if found is not None:
            return found
        if name and any(path == name for path, _ in self.module.named_modules()):
            return Feature(name, (name,), layout="other")
        return part_of(name, self.module)

    def request(self, feature: Feature, source: Source) -> FeatureRequest | None:
        """The feature as a source asks for it; None if it is not available with (or without) the final norm."""
        found = feature if source.norm is None else self.normed(feature, source.norm)
        return None if found is None else FeatureRequest(found, source.layout, source.tokens)

    def normed(self, feature: Feature, norm: bool) -> Feature | None:
        """The feature with or without the trunk's final norm."""
        return self.family.normed(feature, self.params, self.module, norm)

    def feature_help(self, name: str | None) -> str:
        """What to write instead of a name that no feature has."""
        named = ", ".join(f.name for f in self.features())
        near = did_you_mean(name, self.names())
        return " ".join(part for part in (near, f"features: {named}; or any dotted module path") if part)

    def names(self) -> list[str]:
        """Names that a spec may use, the family's first."""
        named = [n for f in self.features() for n in (f.name, *f.aliases)]
        return [*named, *(path for path, _ in self.module.named_modules() if path and path not in named)]


OWN_KEYS = ("freeze", "batchnorm", "input_type", "memory_format", "pretrained", "copy")
"""Keys of a trunk that are not parameters of its family."""


@dataclass(frozen=True)
class TrunkBinder:
    """Looks up trunks and collects what is wrong with them.

    Attributes:
        spec: the spec.
        report: where findings go.
        given: modules to use for trunks of these names.
        allow_imports: whether a spec's `module:` may import code.
    """

    spec: ModelSpec
    report: Collector
    given: Mapping[str, nn.Module]
    allow_imports: bool

    def bind(self) -> dict[str, BoundTrunk]:
        """Every trunk that can be bound, by name."""
        bound: dict[str, BoundTrunk] = {}
        for name in self.given:
            if name not in self.spec.trunks:
                self.report.error(
                    "GM205",
                    f"a module was given for the trunk `{name}`, which the spec does not have",
                    None,
                    choices_help(name, list(self.spec.trunks), "trunks"),
                )
        originals_first = sorted(self.spec.trunks.values(), key=lambda trunk: bool(trunk.copy_of))
        for trunk in originals_first:
            path = trunk_path(self.spec, trunk.name)
            if trunk.copy_of:
                found = self.copy(trunk, path, bound.get(trunk.copy_of))
            else:
                found = self.given_trunk(trunk, path) if trunk.name in self.given else self.trunk(trunk, path)
            if found is not None:
                bound[trunk.name] = found
        return {name: bound[name] for name in self.spec.trunks if name in bound}

    def copy(self, trunk: TrunkSpec, path: str, original: BoundTrunk | None) -> BoundTrunk | None:
        """A trunk that starts with the weights of another."""
        if trunk.name in self.given:
            message = f"a module was given for the trunk `{trunk.name}`, which is a copy of `{trunk.copy_of}`"
            help = f"give it for `{trunk.copy_of}`: the copy starts with its weights"
            self.report.error("GM205", message, self.spec.span((*trunk.at, "copy")), help, dotted(trunk.at))
            return None
        if original is None:  # it was reported
            return None
        if original.component.given and trunk.params != original.spec.params:
            message = f"the trunk `{trunk.name}` copies a module that was given, and overrides parameters of it"
            self.report.error("GM214", message, self.spec.span(trunk.at), "leave the parameters out", dotted(trunk.at))
            return None
        bound = original if original.component.given else self.trunk(trunk, path)
        if bound is None:
            return None
        problem = why_not_copied(bound.component, original.component)
        if problem is not None:
            message = f"the trunk `{trunk.name}` cannot start with the weights of `{trunk.copy_of}`: {problem}"
            help = "a copy may override only parameters that keep the shapes of its weights, such as drop path"
            self.report.error("GM214", message, self.spec.span(trunk.at), help, dotted(trunk.at))
            return None
        component = copied(bound.component, original.component, path, self.spec.span(trunk.at))
        return replace(bound, spec=trunk, component=component, shapes=tuple(self.shapes(trunk)))

    def trunk(self, trunk: TrunkSpec, path: str) -> BoundTrunk | None:
        family = self.imported(trunk) if trunk.imports else find_trunk(trunk.family)
        span = self.spec.span((*trunk.at, "name")) or self.spec.span(trunk.at)
        if family is None:
            if not trunk.imports and trunk.family != LOST:
                self.report.error(
                    "GM205", f"unknown trunk `{trunk.family}`", span, unknown_help(trunk.family), dotted(trunk.at)
                )
            return None
        params = parse_params(family.Params, trunk.params, self.spec, trunk.at, self.report, OWN_KEYS)
        if params is None:
            return None
        follow = do_weights_follow()
        if isinstance(trunk.pretrained, str) and not follow and not self.is_readable(trunk, family):
            return None
        try:
            params = family.for_resolutions(params, self.shapes(trunk))
            meta = build_on_meta(lambda: family.pretrained(params, trunk.input_type, trunk.pretrained, skeleton=True))
        except InvalidTrunkParams as error:
            at = (*trunk.at, *error.path)
            span = self.spec.span(at, key=error.path != ("name",))
            self.report.error(error.code, error.message, span, error.help, dotted(at))
            return None
        except Exception as error:  # a constructor's own refusal of its arguments is the user's error
            message = f"the trunk `{trunk.family}` cannot be built: {first_line(error)}"
            self.report.error("GM302", message, span, "", dotted(trunk.at))
            return None
        weights_span = self.spec.span((*trunk.at, "pretrained"))

        def build() -> nn.Module:
            try:
                return family.pretrained(params, trunk.input_type, trunk.pretrained, skeleton=follow)
            except InvalidTrunkParams as error:
                where = self.spec.span((*trunk.at, *error.path), key=error.path != ("name",))
                raise fail(error.code, error.message, where, error.help) from error
            except Exception as error:
                if not trunk.pretrained:
                    raise
                lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
                message = f"the weights of `{trunk.family}` cannot be loaded: {' '.join(lines[:2])[:300]}"
                raise fail("GM510", message, weights_span) from error

        component = Component(path, "trunk", trunk.family, params, build, meta, span=self.spec.span(trunk.at))
        return BoundTrunk(trunk, family, params, component, tuple(self.shapes(trunk)))

    def is_readable(self, trunk: TrunkSpec, family: TrunkFamily[Any]) -> bool:
        """Whether `pretrained` names weights that the library publishes or a file that is there."""
        weights = str(trunk.pretrained)
        if Path(weights).is_file() or family.is_published(weights):
            return True
        span = self.spec.span((*trunk.at, "pretrained"))
        self.report.error("GM510", f"no such file: {weights}", span, "write true for published weights, or a file")
        return False

    def shapes(self, trunk: TrunkSpec) -> list[tuple[int, ...]]:
        """The per-sample shapes of all inputs that go through a trunk."""
        # A trunk and its copies are built alike.
        original = trunk.copy_of or trunk.name
        alike = {t.name for t in self.spec.trunks.values() if original in (t.name, t.copy_of)}
        names = {s.input for edge in self.spec.edges for s in edge.sources if s.trunk in alike}
        items = [self.spec.inputs[n] for n in names if n in self.spec.inputs]
        return [shape for item in items for shape in item.views or (item.shape,) if shape is not None]

    def given_trunk(self, trunk: TrunkSpec, path: str) -> BoundTrunk | None:
        module = self.given[trunk.name]
        problem = _cannot_open(module)
        if problem is not None:
            self.report.error(
                "GM303",
                f"the module given for the trunk `{trunk.name}` {problem[0]}",
                self.spec.span(trunk.at),
                problem[1],
            )
            return None
        if trunk.pretrained:
            self.report.error(
                "GM205",
                f"a module was given for the trunk `{trunk.name}`, and the spec wants `pretrained` weights for it",
                self.spec.span((*trunk.at, "pretrained")),
                "leave one of them out: a given module keeps its weights",
            )
        meta = meta_copy(module)
        family, params = self.family_of(trunk, meta)
        component = Component(path, "trunk", trunk.family, params, lambda: module, meta, True, self.spec.span(trunk.at))
        return BoundTrunk(trunk, family, params, component, tuple(self.shapes(trunk)))

    def family_of(self, trunk: TrunkSpec, module: nn.Module) -> tuple[TrunkFamily[Any], Any]:
        """The family that names a given module's features: the spec's if the module has all its features."""
        family = None if trunk.imports else find_trunk(trunk.family)
        if family is not None:
            try:
                params = family.Params.model_validate(trunk.params)
                for feature in family.features(params, module):
                    for tap in feature.taps:
                        module.get_submodule(tap.removesuffix(INPUT_OF))
                return family, params
            except (ValidationError, AttributeError):
                pass
        return LibraryTrunk(trunk.family), LibraryParams(**trunk.params)

    def imported(self, trunk: TrunkSpec) -> TrunkFamily[Any] | None:
        span = self.spec.span((*trunk.at, "module"))
        if not self.allow_imports:
            self.report.error(
                "GM212",
                f"the spec wants to import `{trunk.family}` and imports are not allowed",
                span,
                "pass `allow_imports=True` (or `--allow-imports`) if you trust this spec",
            )
            return None
        module, _, attribute = trunk.family.partition(":")
        try:
            target: Any = importlib.import_module(module)
            for part in attribute.split("."):
                target = getattr(target, part)
        except (ImportError, AttributeError, ValueError) as error:
            self.report.error(
                "GM212", f"`{trunk.family}` cannot be imported: {error}", span, "write `package.module:Name`"
            )
            return None
        return PlainTrunk(trunk.family, target)


def _cannot_open(module: Any) -> tuple[str, str] | None:
    """Why what a caller passed cannot be opened, and what to pass instead."""
    if not isinstance(module, nn.Module):
        return f"is a {type(module).__name__}, not an `nn.Module`", "pass a module: `trunks={'trunk': module}`"
    if isinstance(module, torch.jit.ScriptModule):
        return "is TorchScript, which has no Python code to trace", "pass the module that it was made from"
    if hasattr(module, "_orig_mod"):
        return "went through `torch.compile`", "pass the module itself, and compile the result"
    return None


def unknown_help(name: str) -> str:
    """What to write instead of an unknown trunk."""

    def variants(library: str) -> Sequence[str] | None:
        family = find_trunk(library)
        return family.variants() if family is not None else None

    return unknown_trunk_help(name, trunk_names, variants)
