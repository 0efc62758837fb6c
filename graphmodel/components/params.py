"""The base of all parameters that a spec gives to a head or a trunk."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """Validated parameters: unknown names are refused and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
