"""Notebooks show what is registered from above; the package imports nothing upwards for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from graphmodel.spec.display import Displayed


class Shown(Displayed):
    def __repr__(self) -> str:
        return "shown"


def test_the_registered_formatter_gets_the_object(monkeypatch: Any) -> None:
    item = Shown()
    monkeypatch.setattr("graphmodel.spec.display._formatters", [lambda shown: {"text/plain": f"<{shown!r}>"}])
    assert item._repr_mimebundle_(include=None, exclude=None) == {"text/plain": "<shown>"}


def test_without_a_formatter_the_repr_is_shown(monkeypatch: Any) -> None:
    monkeypatch.setattr("graphmodel.spec.display._formatters", [])
    assert Shown()._repr_mimebundle_() == {"text/plain": "shown"}


def test_importing_the_package_registers_pictures_without_loading_torch() -> None:
    code = (
        "import sys, graphmodel\nfrom graphmodel.spec import display\n"
        "assert len(display._formatters) == 1\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
