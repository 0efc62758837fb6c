"""The cell magic, in IPython's own shell; `tests/test_notebooks.py` runs it in a kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import graphmodel
from tests.visualize import toy  # noqa: F401 (registers the toy transformer)

SPEC = """\
inputs: {images: [3, 16, 16]}
trunk: {name: toy_transformer}
heads: {label: {mlp: {dims: [auto, 4]}}}
mapping: {images: {last: label}}
"""


class Cells:
    """A notebook: what its cells show."""

    def __init__(self) -> None:
        self.shell = InteractiveShell.instance()
        self.shell.run_line_magic("reload_ext", "graphmodel")

    def run(self, cell: str) -> tuple[Any, list[dict[str, str]], str]:
        """The result of a cell, the bundles that it displayed, and its text."""
        with capture_output() as captured:
            result = self.shell.run_cell(cell)
        return result, [dict(shown.data) for shown in captured.outputs], captured.stdout + captured.stderr


@pytest.fixture
def cells() -> Iterator[Cells]:
    yield Cells()
    InteractiveShell.clear_instance()


def test_a_cell_becomes_a_model_with_its_picture(cells: Cells) -> None:
    result, shown, _ = cells.run(f"%%graphmodel model --seed 3\n{SPEC}")
    assert result.success
    model = cells.shell.user_ns["model"]
    assert isinstance(model, graphmodel.CompiledModel)
    assert model.model_graph.spec.name == "model"
    (bundle,) = shown
    assert "label" in bundle["text/plain"]
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    assert "<script" not in bundle["text/html"], "the page is escaped"
    assert bundle["image/svg+xml"].startswith("<svg")
    other, _, _ = cells.run(f"%%graphmodel other --seed 3 --no-picture\n{SPEC}")
    assert other.success
    keys = model.state_dict()
    assert all(value.equal(keys[key]) for key, value in cells.shell.user_ns["other"].state_dict().items())


def test_mistakes_have_carets_and_the_numbers_of_the_cells_lines(cells: Cells) -> None:
    cells.shell.user_ns["model"] = "as it was"
    text = SPEC.replace("mlp:", "mpl:").replace("last: label", "<b>&: label")
    result, shown, printed = cells.run(f"%%graphmodel model\n{text}")
    assert isinstance(result.error_in_exec, graphmodel.CompileError)
    assert cells.shell.user_ns["model"] == "as it was"
    (bundle,) = shown
    assert "--> <model>:4:17\n" in bundle["text/plain"]
    assert " 4 | heads: {label: {mpl: {dims: [auto, 4]}}}\n   |                 ^^^" in bundle["text/plain"]
    assert "did you mean `mlp`" in bundle["text/plain"]
    assert "^^^</b>" in bundle["text/html"]
    assert "&lt;b&gt;&amp;" in bundle["text/html"]
    assert "<b>&" not in bundle["text/html"]
    assert "Traceback" not in printed
    assert "and model keeps its value" in printed


def test_a_model_without_a_name_is_not_bound(cells: Cells) -> None:
    for line, reason in [
        ("", "NAME"),
        ("1st", "not a valid name"),
        ("class", "not a valid name"),
        ("model --device nowhere", "--device: "),
        ("model --height -1", "pixels"),
        ("model --sed 3", "unrecognized arguments"),
        ("'", "quotation"),
    ]:
        result, shown, printed = cells.run(f"%%graphmodel {line}\n{SPEC}")
        assert not result.success
        assert shown == []
        assert reason in printed
        assert "Traceback" not in printed
    assert "model" not in cells.shell.user_ns


def test_options_of_a_cell(cells: Cells, tmp_path: Any) -> None:
    import torch

    cells.run(f"%%graphmodel model --no-picture --set heads.label.mlp.dims=[auto,7] --set name=mine\n{SPEC}")
    model = cells.shell.user_ns["model"]
    assert model.model_graph.spec.name == "mine"
    assert model(torch.zeros(1, 3, 16, 16))["label"].shape == (1, 7)
    cells.run(f"%%graphmodel ﬁne --device meta --no-picture\n{SPEC}")
    result, _, _ = cells.run("assert all(p.is_meta for p in ﬁne.parameters())")  # Python reads `fine`
    assert result.success


def test_the_magic_is_gone_when_the_extension_is_unloaded(cells: Cells) -> None:
    cells.run("%unload_ext graphmodel")
    assert "graphmodel" not in cells.shell.magics_manager.magics["cell"]
    cells.run("%load_ext graphmodel")
    assert "graphmodel" in cells.shell.magics_manager.magics["cell"]


def test_a_base_is_looked_up_beside_the_notebook(cells: Cells, tmp_path: Any) -> None:
    (tmp_path / "base.yaml").write_text(SPEC)
    result, _, _ = cells.run("%%graphmodel model --no-picture\nextends: base.yaml\nname: child\n")
    assert result.success
    assert cells.shell.user_ns["model"].model_graph.spec.name == "child"


def test_importing_graphmodel_imports_no_ipython() -> None:
    program = "import sys, graphmodel; assert hasattr(graphmodel, '__version__'); print('IPython' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
