"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import graphmodel

ROOT = Path(graphmodel.__file__).parent


def modules_with_examples() -> list[str]:
    files = [file for file in sorted(ROOT.rglob("*.py")) if ">>> " in file.read_text("utf-8")]
    return [".".join((graphmodel.__name__, *f.relative_to(ROOT).with_suffix("").parts)) for f in files]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_show(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted
    assert not results.failed


def test_every_pass_has_an_example() -> None:
    from graphmodel.passes.pipeline import PIPELINE

    for each in PIPELINE:
        assert doctest.DocTestFinder().find(type(each))[0].examples, each.name
