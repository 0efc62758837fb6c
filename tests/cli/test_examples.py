"""`graphmodel examples`: the list, and copies that load."""

from __future__ import annotations

import json
from pathlib import Path

import graphmodel
from graphmodel.stored import stored_examples


def test_every_example_is_listed_with_what_it_is(run) -> None:
    rows = json.loads(run("examples", "--format", "json").stdout)
    root = Path(__file__).parents[2] / "examples"
    files = {f"{f.parent.name}/{f.stem}" for d in ("native", "recipes", "vissl") for f in (root / d).glob("*.yaml")}
    assert {row["name"] for row in rows} == files
    assert all(len(row["summary"]) > 20 and "http" not in row["summary"] for row in rows)
    assert "recipes/simclr" in run("examples").stdout


def test_a_copy_is_the_same_spec_and_names_no_schema_beside_it(run, tmp_path) -> None:
    made = json.loads(run("examples", "native/pirl", "-o", tmp_path / "new", "--format", "json").stdout)
    assert made == {"files": [str(tmp_path / "new" / "pirl.yaml")]}
    text = (tmp_path / "new" / "pirl.yaml").read_text()
    assert text.startswith("# PIRL")
    (example,) = (e for e in stored_examples() if e.name == "native/pirl")
    assert graphmodel.load_spec(made["files"][0]).model_dump() == graphmodel.load_spec(example.path).model_dump()


def test_a_file_that_exists_is_not_replaced(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("simclr.yaml").write_text("mine")
    assert "it exists" in run("examples", "simclr", code=2).stderr
    assert Path("simclr.yaml").read_text() == "mine"


def test_a_name_of_several_examples_or_of_none_is_a_usage_error(run, tmp_path) -> None:
    assert "recipes/pirl, native/pirl" in run("examples", "pirl", "-o", tmp_path, code=2).stderr
    assert "did you mean `simclr`?" in run("examples", "simlcr", "-o", tmp_path, code=2).stderr
    assert list(tmp_path.iterdir()) == []
