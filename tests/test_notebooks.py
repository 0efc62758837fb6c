"""The notebooks of the documentation run, and what is stored of them is small and current."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import graphmodel
from graphmodel.visualize import mimebundle
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


def drawings() -> list[Any]:
    """The specs of the stored drawings, the options of their cells, and the drawings."""
    found = []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            magic, _, spec = "".join(cell["source"]).partition("\n")
            for output in cell.get("outputs", ()):
                if magic.startswith("%%graphmodel ") and "image/svg+xml" in output.get("data", ()):
                    name, svg = magic.split()[1], "".join(output["data"]["image/svg+xml"])
                    marks = [pytest.mark.slow] if found else []
                    found.append(pytest.param(spec, name, svg, id=f"{path.stem}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("spec", "name", "stored"), drawings())
def test_stored_drawings_say_and_contain_what_a_new_one_does(spec: str, name: str, stored: str) -> None:
    """`python scripts/notebooks.py` draws them again."""
    pytest.importorskip("pygraphviz")
    model = graphmodel.compile({"name": name, **yaml.safe_load(spec)}, device="meta")
    new, old = (ElementTree.fromstring(svg) for svg in (mimebundle(model)["image/svg+xml"], stored))

    def facts(root: ElementTree.Element) -> tuple[list[str], Counter[str]]:
        words = [" ".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
        return sorted(words), Counter(element.tag for element in root.iter())

    assert facts(new) == facts(old)


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
