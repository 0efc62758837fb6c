"""Whether two specs describe one model, and `convert --check`, which compares a file with its translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import app
from graphmodel.equivalence import equivalence

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"a": {"mlp": {"dims": ["auto", 4]}}, "b": {"mlp": {"dims": ["auto", 4]}}},
    "mapping": {"images": {"flatten": ["a", "b"]}},
}
VISSL = """
MODEL:
  TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
  FEATURE_EVAL_SETTINGS: {EVAL_MODE_ON: true, FREEZE_TRUNK_ONLY: true}
  HEAD: {PARAMS: [["mlp", {"dims": [512, 8], "use_relu": true}], ["mlp", {"dims": [8, 4]}]]}
"""


def compared(changes: dict[str, Any]) -> Any:
    return equivalence(graphmodel.load_spec(SPEC), graphmodel.load_spec({**SPEC, **changes}))


def test_the_same_model_is_the_same_by_any_name() -> None:
    found = compared(
        {"name": "other", "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "norm": "BatchNorm"}}
    )
    assert found.same
    assert (found.differences, found.outputs) == ((), 2)
    assert found.tensors == 122 - 2 + 4  # without the classifier, with both heads


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"freeze": ["trunk"]}, "frozen is trunk, it was nothing"),
        ({"returns": "tuple"}, "the result is a tuple"),
        ({"inputs": {"images": [3, 64, 64]}}, "the graphs are not isomorphic"),
        ({"mapping": {"images": {"flatten": ["b", "a"]}}, "outputs": ["b", "a"]}, "the nesting of the outputs"),
        ({"mapping": {"images": {"flatten": "a"}}}, "the tensor `heads.b.clf.0.weight` is gone"),
        ({"heads": {**SPEC["heads"], "b": {"mlp": {"dims": ["auto", 5]}}}}, "has the shape (5, 128), it was (4, 128)"),
        (
            {"heads": {**SPEC["heads"], "b": [{"mlp": {"dims": ["auto", 4]}}, "identity"]}},
            "the graphs are not isomorphic",
        ),
    ],
    ids=str,
)
def test_what_differs_is_said(changes: dict[str, Any], says: str) -> None:
    found = compared(changes)
    assert not found.same
    assert says in "\n".join(found.differences)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("simclr_base.yaml").write_text(VISSL)
    Path("wider.yaml").write_text('MODEL: {HEAD: {PARAMS: [["mlp", {"dims": [512, 6]}]]}}\n')
    return tmp_path


ARGUMENTS = ["convert", "simclr_base.yaml", "wider.yaml", "--input", "images=3x32x32"]


def test_convert_names_the_model_after_the_base_file(files: Path) -> None:
    text = CliRunner().invoke(app, ARGUMENTS).stdout
    assert "name: simclr_base\n" in text
    assert "# converted from simclr_base.yaml + wider.yaml (vissl)\n" in text
    changed = CliRunner().invoke(app, [*ARGUMENTS, "--set", "MODEL.HEAD.BATCHNORM_EPS=0.1"]).stdout
    assert "name: simclr_base\n" in changed


def test_convert_of_a_native_spec_names_it_after_its_own_file(files: Path) -> None:
    Path("base.yaml").write_text(
        "inputs: {images: [3, 32, 32]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n"
    )
    Path("mine.yaml").write_text("extends: base.yaml\ntrunk: {depth: 34}\n")
    assert "name: mine\n" in CliRunner().invoke(app, ["convert", "mine.yaml"]).stdout


def test_convert_check_compares_both_models(files: Path) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, "--check", "-o", "native.yaml", "--format", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["ok"], found["same"], found["outputs"], found["files"]) == (True, True, 1, ["native.yaml"])
    assert graphmodel.load_spec("native.yaml").dialect == "native"


def test_a_translation_that_is_another_model_is_not_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphmodel.dialects import convert

    right = convert.convert
    monkeypatch.setattr(convert, "convert", lambda spec: right(spec).replace("[512, 6]", "[512, 7]"))
    result = CliRunner().invoke(app, [*ARGUMENTS, "--check", "-o", "native.yaml"])
    assert result.exit_code == 1
    assert "not the same model:" in result.stdout
    assert "(7, 512), it was (6, 512)" in result.stdout
    assert not Path("native.yaml").exists()
