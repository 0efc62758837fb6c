"""Files that are shipped with the code: the JSON Schemas, the catalogue of components, and the example specs.

Schemas and catalogue are generated (`python docs/generate.py`) and answer without importing torch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

EXAMPLES = ("recipes", "native", "vissl")
"""The folders of examples that are shipped."""


@dataclass(frozen=True)
class Example:
    """A spec that comes with the package.

    Attributes:
        name: its folder and name, such as `recipes/simclr`.
        path: its file.
        summary: what it is, from its first comment.
    """

    name: str
    path: Path
    summary: str

    def text(self) -> str:
        """Its text, without the line that names a schema beside it."""
        lines = self.path.read_text("utf-8").splitlines(keepends=True)
        return "".join(lines[1:] if lines[0].startswith("# yaml-language-server") else lines)


def stored_examples() -> list[Example]:
    """The example specs, in an installed package or in a checkout."""
    here = Path(__file__).resolve().parent
    root = here / "_examples" if (here / "_examples").is_dir() else here.parent / "examples"
    found = []
    for folder in EXAMPLES:
        for path in sorted((root / folder).glob("*.yaml")):
            example = Example(f"{folder}/{path.stem}", path, "")
            found.append(Example(example.name, path, _summary(example.text())))
    return found


def _summary(text: str) -> str:
    """The sentences of a file's first comment, without the addresses of papers."""
    words: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words += [word for word in line.lstrip("# ").split() if not word.startswith("https://")]
    return " ".join(words)


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
