"""Probes of frozen features: heads, nearest neighbours and logistic regression on stores that `extract` wrote."""

from graphmodel.probing.results import ProbeReport, ProbeResult
from graphmodel.probing.run import probe

__all__ = ["ProbeReport", "ProbeResult", "probe"]
