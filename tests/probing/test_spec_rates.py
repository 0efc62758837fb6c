"""Rates that the spec gives heads, and what goes over them."""

from __future__ import annotations

from graphmodel.diagnostics import Collector
from graphmodel.probing.options import rates_of

OWN = {"a": 0.5, "b": None, "c4": None}


def test_a_named_rate_goes_over_that_of_the_spec_which_goes_over_a_rate_for_all():
    report = Collector()
    assert rates_of(report, "lr", None, OWN, 0.01) == {"a": 0.5, "b": 0.01, "c4": 0.01}
    assert rates_of(report, "lr", 0.2, OWN, 0.01) == {"a": 0.5, "b": 0.2, "c4": 0.2}
    assert rates_of(report, "lr", {"": 0.2, "a": 1, "c*": 3, "c4": 4}, OWN, 0.01) == {"a": 1.0, "b": 0.2, "c4": 4.0}
    assert rates_of(report, "lr", {"*": 7}, OWN, 0.01) == {"a": 7.0, "b": 7.0, "c4": 7.0}
    assert not report.found


def test_a_name_of_no_head_is_a_finding_with_the_nearest_one():
    report = Collector()
    rates_of(report, "lr", {"cc4": 1}, OWN, 0.01)
    assert [(d.code, "did you mean `c4`" in d.help) for d in report.found] == [("GM614", True)]
