"""Executes the notebooks of the documentation and stores their outputs: `python scripts/notebooks.py`.

All of them run in one kernel, each with fresh names, since most of the time goes into importing torch. What is stored
is small and the same on every run: drawings stand in for interactive pages, without embedded fonts, counters and times.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
RESET = "%reset -f\nget_ipython().extension_manager.loaded.discard('graphmodel')"
"""Run before each notebook."""


def executed(paths: list[Path]) -> dict[Path, Any]:
    """The notebooks with their outputs.

    Raises:
        CellExecutionError: if a cell fails that is not tagged `raises-exception`.
    """
    found = {path: nbformat.read(path, as_version=4) for path in paths}
    whole = nbformat.v4.new_notebook()
    for notebook in found.values():
        whole.cells += [nbformat.v4.new_code_cell(RESET), *(c for c in notebook.cells if c.cell_type == "code")]
    with tempfile.TemporaryDirectory() as place:
        NotebookClient(whole, timeout=300, kernel_name="python3", resources={"metadata": {"path": place}}).execute()
    for notebook in found.values():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = [_stored(output) for output in cell.outputs]
                cell.metadata.pop("execution", None)
    return found


def _stored(output: Any) -> Any:
    output.pop("execution_count", None)
    if output.output_type == "execute_result":
        output["execution_count"] = None
    data = output.get("data", {})
    if data.get("text/html", "").startswith("<iframe"):
        del data["text/html"]
    if "image/svg+xml" in data:
        data["image/svg+xml"] = re.sub(r"@font-face\{[^}]*\}", "", data["image/svg+xml"])
        data["text/plain"] = "<the model graph>"
    return output


def main() -> None:
    """Writes every notebook with its outputs."""
    for path, notebook in executed(sorted(FOLDER.glob("*.ipynb"))).items():
        path.write_text(nbformat.writes(notebook, indent=1) + "\n", "utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
