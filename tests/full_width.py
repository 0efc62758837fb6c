"""The small specs as wide as torchvision's own models, for tests that build no weights: a `conftest.py` imports them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def small(small: dict[str, Any]) -> dict[str, Any]:
    del small["trunk"]["width_multiplier"]
    return small


@pytest.fixture
def two_inputs(two_inputs: dict[str, Any]) -> dict[str, Any]:
    del two_inputs["trunk"]["width_multiplier"]
    return two_inputs
