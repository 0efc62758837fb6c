"""The index read from the sources names exactly what importing every file registers, and each file by itself."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from graphmodel.components import registry
from graphmodel.components.index import FOLDERS, Kind, builtin


def files() -> list[str]:
    """Every module of the folders that the index reads."""
    return [
        f"graphmodel.components.{folder}.{module.name}"
        for folder in FOLDERS
        for module in pkgutil.iter_modules(import_module(f"graphmodel.components.{folder}").__path__)
    ]


@pytest.mark.parametrize("kind", ["head", "trunk"])
def test_the_index_is_what_importing_every_file_registers(kind: Kind) -> None:
    for file in files():
        import_module(file)
    table = registry._heads if kind == "head" else registry._trunks
    registered = {
        name: module
        for name in table
        if (module := registry._owners[kind, name].rpartition(".")[0]).startswith("graphmodel.components.")
    }
    assert builtin(kind) == registered


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has imported after a statement."""
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


@pytest.mark.slow
def test_a_name_imports_its_own_file_only() -> None:
    modules = loaded(
        "from graphmodel.components.registry import find_head, find_trunk\n"
        "assert find_trunk('resnet') is not None and find_head('mlp') is not None\n"
        "assert find_trunk('rsnet') is None"
    )
    files = {m for m in modules if m.startswith(("graphmodel.components.heads.", "graphmodel.components.trunks."))}
    # The presets of `mlp` are a part of that head, in a file of its own.
    assert {m.rpartition(".")[2] for m in files if "._" not in m} == {"mlp", "mlp_presets", "resnet"}
    assert "timm" not in modules


@pytest.mark.slow
def test_a_library_name_imports_no_family() -> None:
    modules = loaded("from graphmodel.components.registry import find_trunk; assert find_trunk('timm:resnet18')")
    assert not [m for m in modules if m.startswith("graphmodel.components.trunks.")]
