"""The table of diagnostic codes is whole and its examples do what it says."""

import re
from pathlib import Path

import pytest
import torch

import graphmodel
from graphmodel.diagnostics.codes import CODES, GROUPS, to_markdown
from graphmodel.spec.document import read_text

ROOT = Path(__file__).parents[2]
YAML = [c for c in CODES.values() if c.language == "yaml"]
PYTHON = [c for c in CODES.values() if c.language == "python"]


def codes_in_sources() -> set[str]:
    found: set[str] = set()
    for file in (ROOT / "graphmodel").rglob("*.py"):
        if "codes" not in file.parts:
            found |= set(re.findall(r"""["'](GM\d{3})["']""", file.read_text("utf-8")))
    return found


def test_every_code_in_the_sources_has_an_entry():
    assert codes_in_sources() - CODES.keys() == set()


def test_no_entry_is_left_of_a_code_that_is_gone():
    assert CODES.keys() - codes_in_sources() == set()


def test_codes_stand_in_order_and_belong_to_a_group():
    assert list(CODES) == sorted(CODES)
    assert {code[2] for code in CODES} <= GROUPS.keys()


@pytest.mark.parametrize("code", CODES.values(), ids=lambda c: c.code)
def test_an_entry_has_a_title_a_meaning_and_an_example(code):
    """Titles are read after `error[GM101]: `: they start with a small letter, a name in capitals, or code."""
    first = code.title.split()[0]
    assert first.startswith("`") or first[1:] != first[1:].lower() or first[0].islower()
    assert not code.title.endswith(".")
    assert code.meaning.endswith(".")
    assert code.bad.strip()


def found(text: str, tmp_path: Path) -> set[str]:
    """The codes that a spec gets, errors or not."""
    path = tmp_path / "spec.yaml"
    path.write_text(text, "utf-8")
    try:
        spec = graphmodel.load_spec(path)
        graph = graphmodel.compile(spec, device="meta").optimized_graph
    except graphmodel.CompileError as error:
        return {d.code for d in error.diagnostics}
    return {d.code for d in (*spec.notes, *graph.notes)}


@pytest.mark.parametrize("code", YAML, ids=lambda c: c.code)
def test_the_bad_example_gets_the_code(code, tmp_path):
    assert code.code in found(code.bad, tmp_path)


@pytest.mark.parametrize("code", [c for c in YAML if c.good], ids=lambda c: c.code)
def test_the_good_example_does_not_get_the_code(code, tmp_path):
    assert code.code not in found(code.good, tmp_path)


@pytest.mark.parametrize("code", [c for c in YAML if c.good and c.code > "GM2"], ids=lambda c: c.code)
def test_the_good_example_compiles(code, tmp_path):
    (tmp_path / "spec.yaml").write_text(code.good, "utf-8")
    assert graphmodel.compile(tmp_path / "spec.yaml", device="meta").model_graph.outputs


@pytest.mark.parametrize("code", PYTHON, ids=lambda c: c.code)
def test_the_bad_python_example_gets_the_code(code):
    with pytest.raises(graphmodel.CompileError) as error:
        exec(code.bad, {"graphmodel": graphmodel, "torch": torch})
    assert {d.code for d in error.value.diagnostics} == {code.code}


@pytest.mark.slow
@pytest.mark.parametrize("code", [c for c in PYTHON if c.good], ids=lambda c: c.code)
def test_the_good_python_example_runs(code):
    exec(code.good, {"graphmodel": graphmodel, "torch": torch})


def test_the_docs_page_is_the_table():
    assert (ROOT / "docs" / "diagnostics.md").read_text("utf-8") == to_markdown(), "run `python docs/generate.py`"


def test_bad_yaml_examples_differ_from_good_ones():
    for code in YAML:
        if code.good and code.code != "GM101":
            assert read_text(code.good).data, code.code
            assert code.good != code.bad
