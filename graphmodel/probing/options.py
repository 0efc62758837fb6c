"""The options of a probe, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from graphmodel.diagnostics import Collector, choices_help

Method = Literal["heads", "knn", "logistic"]
Optimizer = Literal["sgd", "adamw"]
METHODS, OPTIMIZERS = get_args(Method), get_args(Optimizer)
Rates = float | Mapping[str, float] | None
DEFAULT_LR = 0.01


@dataclass(frozen=True)
class Options:
    """How a probe is run; see `probe` for what each means."""

    method: Method = "heads"
    holdout: float | None = None
    epochs: int = 28
    batch_size: int = 256
    lr: Rates = None
    weight_decay: Rates = None
    optimizer: Optimizer = "sgd"
    k: tuple[int, ...] = (20,)
    temperature: float = 0.07
    C: tuple[float, ...] = (1.0,)
    seed: int = 0

    def check(self, report: Collector) -> None:
        """Adds a finding for each option that is not valid (GM614)."""
        for name, value, choices in (
            ("method", self.method, METHODS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in choices:
                report.error("GM614", f"`{value}` is not a valid {name}", None, choices_help(value, choices), name)
        for name, number, least in (("epochs", self.epochs, 1), ("batch_size", self.batch_size, 1)):
            if not _is_whole(number) or number < least:
                report.error("GM614", f"`{name}` takes a positive whole number, not {number!r}", path=name)
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            report.error("GM614", f"`seed` takes a whole number that is not negative, not {self.seed!r}", path="seed")
        if self.holdout is not None and not (is_number(self.holdout) and 0 < self.holdout < 1):
            message = f"`holdout` takes a fraction between 0 and 1, not {self.holdout!r}"
            report.error("GM614", message, path="holdout")
        for name, rates in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            for rate in rates.values() if isinstance(rates, Mapping) else [] if rates is None else [rates]:
                if not is_number(rate) or rate < 0:
                    report.error("GM614", f"`{name}` takes numbers that are not negative, not {rate!r}", path=name)
        for k in _several(report, "k", self.k):
            if not _is_whole(k) or k < 1:
                report.error("GM614", f"`k` takes positive whole numbers, not {k!r}", path="k")
        for c in _several(report, "C", self.C):
            if not is_number(c) or c <= 0:
                report.error("GM614", f"`C` takes positive numbers, not {c!r}", path="C")
        if not is_number(self.temperature) or self.temperature <= 0:
            message = f"`temperature` takes a positive number, not {self.temperature!r}"
            report.error("GM614", message, path="temperature")


def _several(report: Collector, name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        report.error("GM614", f"`{name}` is empty", None, "give one value or several", name)
    return values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def rates_of(
    report: Collector, what: str, rates: Rates, heads: Mapping[str, float | None], default: float
) -> dict[str, float]:
    """The rate of each head.

    A head that `rates` names, or whose name matches one of its patterns, has that rate, the last one that matches; then
    come the head's own rate in the spec, a rate for all, and the default.

    Args:
        report: takes a finding for each name that no head has (GM614).
        what: the option.
        rates: a rate for heads without one in the spec, or rates by name or pattern of heads: `*` is every head, and an
            empty name those without one in the spec.
        heads: names of the heads, and their own rates.
        default: the rate of what is not mentioned.
    """
    named = dict(rates) if isinstance(rates, Mapping) else {} if rates is None else {"": rates}
    common = named.pop("", default)
    for pattern in named:
        if not any(fnmatchcase(head, pattern) for head in heads):
            message = f"`{what}` names `{pattern}`, which is not a head that is trained"
            report.error("GM614", message, None, choices_help(pattern, list(heads), "heads"), what)
    found = {}
    for head, own in heads.items():
        matching = [rate for pattern, rate in named.items() if fnmatchcase(head, pattern)]
        found[head] = float(matching[-1] if matching else common if own is None else own)
    return found
