"""Files that are generated from the code and shipped with it: the JSON Schemas and the catalogue of components.

They answer without importing torch. `python docs/generate.py` writes them.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def stored_path(file: str) -> Path:
    """The path of a generated file, in an installed package or in a checkout.

    Raises:
        FileNotFoundError: if neither has it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_schemas", here.parent / "schemas"):
        path = folder / file
        if path.is_file():
            return path
    raise FileNotFoundError(f"no file `{file}` beside the package; `python docs/generate.py` in a checkout writes it")


def stored(file: str) -> Any | None:
    """The contents of a generated file, or None if they may not be all there is.

    Packages can offer heads and trunks of their own (the entry points `graphmodel.components`), and a process may have
    registered some.
    """
    if "torch" in sys.modules or metadata.entry_points(group="graphmodel.components"):
        return None
    try:
        return json.loads(stored_path(file).read_text("utf-8"))
    except FileNotFoundError:
        return None
