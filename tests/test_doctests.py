"""The examples in the package's docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest

from tests.conftest import ROOT

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "graphmodel").rglob("*.py")
    if re.search(r">>> [^#]", file.read_text("utf-8"))
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted, "every example is a comment, or outside of a docstring"
    assert not result.failed
