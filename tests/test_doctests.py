"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import graphmodel

ROOT = Path(graphmodel.__file__).parent


SLOW = ("exporters/__init__.py", "lower/torch_compile.py", "lower/inference.py")  # compile and export models


def modules_with_examples() -> list[Any]:
    files = [file.relative_to(ROOT) for file in sorted(ROOT.rglob("*.py")) if ">>> " in file.read_text("utf-8")]
    return [
        pytest.param(
            ".".join((graphmodel.__name__, *file.with_suffix("").parts)),
            marks=[pytest.mark.slow] if file.as_posix() in SLOW else [],
        )
        for file in files
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_show(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted
    assert not results.failed


def test_every_pass_has_an_example() -> None:
    from graphmodel.passes.pipeline import PIPELINE

    for each in PIPELINE:
        assert doctest.DocTestFinder().find(type(each))[0].examples, each.name
