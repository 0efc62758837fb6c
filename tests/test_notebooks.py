"""The notebooks of the documentation run, and what is stored of them is small and current."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def shown(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """The code of each cell, and the kinds and types of what it shows."""
    return [
        ("".join(cell["source"]), output["output_type"], sorted(output.get("data", ())))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]


def test_stored_notebooks_are_small_and_have_outputs() -> None:
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        text = path.read_text("utf-8")
        assert len(text) < 120_000, path.name
        stored = json.loads(text)
        assert shown(stored)
        assert all(cell.get("execution_count") is None for cell in stored["cells"])
        assert any("image/svg+xml" in types for _, _, types in shown(stored)), "the picture of a model"
        assert "<iframe" not in text
        assert "font-face" not in text


@pytest.mark.slow
def test_notebooks_execute_to_what_is_stored() -> None:
    """Up to numbers: those depend on the processor."""
    pytest.importorskip("nbclient")
    pytest.importorskip("pygraphviz")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for path, executed in script.executed(NOTEBOOKS).items():
        assert shown(executed) == shown(json.loads(path.read_text("utf-8"))), path.name
