"""Without a trainer's package, the wrapper says which command installs it, and graphmodel works."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
sys.modules[{package!r}] = None
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] == {package!r} else found(name, *rest)
import graphmodel
{code}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "package", "extra"), [("lightning", "lightning", "lightning"), ("hf", "transformers", "hf")]
)
def test_a_missing_package_is_explained_in_one_line(module: str, package: str, extra: str) -> None:
    code = WITHOUT.format(package=package, code=f"import graphmodel.integrations.{module}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ModuleNotFoundError: this needs `{package}`: pip install 'graphmodel[{extra}]'"


@pytest.mark.slow
def test_the_core_imports_no_trainer() -> None:
    code = "import sys, graphmodel; graphmodel.compile; print([n for n in ('lightning', 'transformers', 'accelerate', 'onnx') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
