"""`graphmodel visualize` and `graphmodel diff` on the command line: what they print, write and exit with."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from graphmodel.cli import app

needs_graphviz = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("pygraphviz") is None, reason="pygraphviz is not installed"
)


@pytest.fixture
def run() -> Any:
    runner = CliRunner()

    def call(*arguments: object) -> Any:
        return runner.invoke(app, [str(a) for a in arguments])

    return call


@pytest.fixture
def spec(small: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small, sort_keys=False))
    return path


@pytest.fixture
def other(small: dict[str, Any], tmp_path: Path) -> Path:
    changed = copy.deepcopy(small)
    changed["trunk"]["depth"] = 34
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    return path


def test_a_tree_is_printed_if_no_file_is_named(run: Any, spec: Path) -> None:
    done = run("visualize", spec)
    assert done.exit_code == 0
    assert "layer1  2 × BasicBlock" in done.stdout
    assert "head  mlp · 512 → 10" in done.stdout


@needs_graphviz
def test_the_suffix_names_the_format(run: Any, spec: Path, tmp_path: Path) -> None:
    for suffix, start in (
        ("svg", "<svg"),
        ("mmd", "%%{init"),
        ("dot", "digraph"),
        ("json", "{"),
        ("html", "<!doctype"),
    ):
        file = tmp_path / f"model.{suffix}"
        done = run("visualize", spec, "-o", file)
        assert done.exit_code == 0, done.output
        assert file.read_text().startswith(start)
        assert done.stdout == ""


def test_options_reach_the_picture(run: Any, spec: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    done = run("visualize", spec, "-o", file, "--depth", 0, "--set", "trunk.depth=34", "--input", "images=3x96x96")
    assert done.exit_code == 0, done.output
    data = json.loads(file.read_text())
    assert [b["title"] for b in data["boxes"] if b["kind"] == "stage"] == ["trunk"]
    assert data["boxes"][0]["lines"] == ["3×96×96"]
    assert data["boxes"][1]["lines"] == ["resnet · depth 34"]
    run("visualize", spec, "-o", file, "--ghosts")
    assert any(b["ghost"] for b in json.loads(file.read_text())["boxes"])


def test_json_is_the_picture_or_the_file_that_was_written(run: Any, spec: Path, tmp_path: Path) -> None:
    data = json.loads(run("visualize", spec, "--format", "json").stdout)
    assert data["ok"]
    assert [b["title"] for b in data["boxes"] if b["kind"] == "output"] == ["head"]
    done = run("visualize", spec, "--format", "json", "-o", tmp_path / "model.dot")
    assert json.loads(done.stdout) == {"ok": True, "files": [str(tmp_path / "model.dot")], "diagnostics": []}
    wrong = run("visualize", spec, "--format", "json", "-o", tmp_path / "model.bmp")
    assert (wrong.exit_code, json.loads(wrong.stdout)["diagnostics"][0]["code"]) == (2, "GM530")


def test_an_unknown_suffix_is_rejected_before_anything_is_built(run: Any, spec: Path, tmp_path: Path) -> None:
    done = run("visualize", spec, "-o", tmp_path / "model.bmp")
    assert done.exit_code == 2
    assert "GM530" in done.stderr
    assert not (tmp_path / "model.bmp").exists()


def test_a_wrong_spec_gives_its_findings(run: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("trunk: resnte\ninputs: {images: [3, 64, 64]}\n")
    done = run("visualize", tmp_path / "bad.yaml")
    assert done.exit_code == 1
    assert "did you mean `resnet`" in done.stderr


def test_diff_exits_with_zero_if_nothing_differs(run: Any, spec: Path) -> None:
    done = run("diff", spec, spec)
    assert (done.exit_code, done.stdout) == (0, "no difference\n")


def test_diff_exits_with_one_and_says_what_differs(run: Any, spec: Path, other: Path) -> None:
    done = run("diff", spec, other)
    assert done.exit_code == 1
    assert "~ trunk: depth 18 became 34" in done.stdout.splitlines()
    assert run("diff", spec, other, "--set", "trunk.depth=18").exit_code == 0


def test_diff_exits_with_two_if_a_side_cannot_be_read(run: Any, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("trunk: resnte\ninputs: {images: [3, 64, 64]}\n")
    for wrong in (tmp_path / "bad.yaml", tmp_path / "none.yaml", tmp_path):
        done = run("diff", spec, wrong)
        assert done.exit_code == 2, done.output
        assert "GM" in done.stderr
    assert run("diff", spec).exit_code == 2


def test_diff_as_json(run: Any, spec: Path, other: Path) -> None:
    done = run("diff", spec, other, "--format", "json")
    data = json.loads(done.stdout)
    assert (done.exit_code, data["same"]) == (1, False)
    assert any(c["what"] == "trunk" and c["after"] == 34 for c in data["changes"])


def test_diff_with_a_compiled_model(run: Any, spec: Path, other: Path, tmp_path: Path) -> None:
    built = tmp_path / "built"
    assert run("compile", spec, "-o", built, "--no-weights").exit_code == 0
    assert run("diff", spec, built).exit_code == 0
    assert run("diff", other, built).exit_code == 1


@needs_graphviz
def test_diff_draws_both(run: Any, spec: Path, other: Path, tmp_path: Path) -> None:
    done = run("diff", spec, other, "-o", tmp_path / "diff.svg")
    assert done.exit_code == 1
    assert "~ layer1" in (tmp_path / "diff.svg").read_text()
