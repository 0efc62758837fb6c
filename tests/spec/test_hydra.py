from __future__ import annotations

from pathlib import Path

import pytest

from graphmodel import CompileError, load_spec
from graphmodel.diagnostics import Collector
from graphmodel.spec.extends import FileReader
from graphmodel.spec.hydra import follow_defaults

BASE = "config: {MODEL: {TRUNK: {NAME: resnet, RESNETS: {DEPTH: 50}}, HEAD: {PARAMS: [[mlp, {dims: [2048, 8]}]]}}}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A configuration tree like VISSL's."""
    (tmp_path / "config" / "pretrain" / "models").mkdir(parents=True)
    (tmp_path / "config" / "pretrain" / "base.yaml").write_text(f"# @package _global_\n{BASE}")
    (tmp_path / "config" / "pretrain" / "models" / "deep.yaml").write_text(
        "# @package _global_\nconfig: {MODEL: {TRUNK: {RESNETS: {DEPTH: 101}}}}\n"
    )
    return tmp_path


def followed(tree: Path, text: str) -> tuple[int, list[str]]:
    path = tree / "config" / "mine.yaml"
    path.write_text(text)
    report = Collector()
    document = follow_defaults(FileReader().read(path), path, report, FileReader())
    return document.get(("config", "MODEL", "TRUNK", "RESNETS", "DEPTH")), [d.code for d in report.found]


def test_groups_options_and_paths_are_found(tree: Path) -> None:
    assert followed(tree, "defaults: [{config: pretrain/base}, pretrain/models/deep]\n") == (101, [])
    assert followed(tree, "defaults: ['+config/pretrain/models: deep', /config/pretrain/base.yaml]\n")[0] in (50, 101)
    assert followed(tree, "defaults:\n  - pretrain/base@config\n  - override pretrain/models: deep\n") == (101, [])


def test_self_says_where_the_file_itself_stands(tree: Path) -> None:
    own = "config: {MODEL: {TRUNK: {RESNETS: {DEPTH: 18}}}}\n"
    assert followed(tree, f"defaults: [pretrain/base, _self_]\n{own}")[0] == 18
    assert followed(tree, f"defaults: [_self_, pretrain/base]\n{own}")[0] == 50
    assert followed(tree, f"defaults: [pretrain/base]\n{own}")[0] == 18


def test_what_is_not_there_is_a_warning_unless_optional(tree: Path) -> None:
    assert followed(tree, "defaults: [pretrain/base, nowhere]\n") == (50, ["GM109"])
    assert followed(tree, "defaults: [pretrain/base, optional nowhere, {config: '???'}]\n") == (50, [])


def test_a_cycle_is_refused(tree: Path) -> None:
    (tree / "config" / "other.yaml").write_text("defaults: [mine]\n")
    with pytest.raises(CompileError, match="form a cycle") as caught:
        followed(tree, "defaults: [other]\n")
    assert caught.value.diagnostics[0].code == "GM107"


def test_a_followed_file_compiles_like_its_parts(tree: Path) -> None:
    path = tree / "config" / "mine.yaml"
    path.write_text("defaults: [pretrain/base, pretrain/models/deep]\n")
    spec = load_spec(path)
    assert spec.trunks["trunk"].params == {"depth": 101}
    span = spec.span(("trunk", "depth"))
    assert span is not None
    assert span.file.endswith("deep.yaml")
