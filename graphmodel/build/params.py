"""Validates the parameters of a component; findings point at the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from graphmodel.diagnostics import Collector
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import ModelSpec
from graphmodel.spec.validate import report_invalid


def parse_params(
    model: type[BaseModel],
    values: Mapping[str, Any],
    spec: ModelSpec,
    at: KeyPath,
    report: Collector,
    beside: Sequence[str] = (),
) -> Any | None:
    """Validated parameters, or None with the findings in `report`; `beside` are further keys of the same mapping."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        report_invalid(error.errors(include_url=False), model, spec.document, report, at, beside)
    return None
