"""Every finding that proposes a name has a quick fix, and with it the finding is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphmodel
from graphmodel.diagnostics import Diagnostic
from graphmodel.diagnostics.codes import CODES
from graphmodel.lsp.fixes import fix
from graphmodel.lsp.positions import Text
from tests.lsp.client import applied

TREE = "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n"
MISTAKES = {
    "key": TREE.replace("inputs", "inptus"),
    "renamed key": TREE.replace("[3, 64, 64]", "{views: [{count: 2, shape: [3, 64, 64]}], passes: crop}"),
    "trunk": TREE.replace("resnet", "resnt"),
    "model of timm": TREE.replace("resnet, depth: 18", "timm:resnet18x"),
    "parameter": TREE.replace("depth", "dpth"),
    "feature": TREE + "mapping: {images: [a]}\nheads: {a: {mlp: {dims: [auto, 2]}}}\n".replace("[a]", "{res55: a}"),
    "feature of the long form": TREE + "mapping: [{from: images.res55, as: a}]\n",
    "input": TREE + "mapping: [{from: imges.res5, as: a}]\n",
    "head": TREE + "heads: {label: {mlp: {dims: [auto, 2]}}}\nmapping: {images: {flatten: labl}}\n",
    "kind of head": TREE + "heads: {label: {mpl: {dims: [auto, 2]}}}\n",
    "output": TREE + "mapping: [{from: images.flatten, as: pooled}]\noutputs: [poled]\n",
    "word": TREE + "returns: dct\n",
    "pass": TREE + "optimize: [merge_cals]\n",
    "frozen part": TREE + "freeze: [trnk]\n",
    "quoted": TREE.replace("resnet", '"resnt"'),
}


def findings(text: str, path: Path) -> list[Diagnostic]:
    path.write_text(text, "utf-8")
    try:
        graphmodel.compile(path, device="meta")
    except graphmodel.CompileError as error:
        return error.diagnostics
    return []


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_the_proposed_name_removes_the_finding(text: str, tmp_path: Path) -> None:
    proposing = [d for d in findings(text, tmp_path / "spec.yaml") if d.suggestion]
    assert proposing
    for finding in proposing:
        found = fix(finding, Text(text))
        assert found is not None
        text_after = applied(text, [{"range": found[0], "newText": found[1]}])
        left = [(d.code, d.message) for d in findings(text_after, tmp_path / "spec.yaml")]
        assert (finding.code, finding.message) not in left


@pytest.mark.slow
def test_examples_of_codes_that_propose_a_name_have_a_fix(tmp_path: Path) -> None:
    fixed = 0
    for code in CODES.values():
        if code.language != "yaml":
            continue
        for finding in findings(code.bad, tmp_path / "spec.yaml"):
            if finding.suggestion and finding.span is not None:
                assert fix(finding, Text(code.bad)) is not None, finding
                fixed += 1
    assert fixed >= 5
