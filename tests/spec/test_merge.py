from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphmodel.diagnostics import CompileError
from graphmodel.spec.document import read_text
from graphmodel.spec.extends import FileReader
from graphmodel.spec.merge import apply_overrides, from_mapping, merge, parse_path


def test_overlays_merge_mappings_and_replace_the_rest() -> None:
    base = read_text("trunk: {name: resnet, depth: 50}\nlist: [1, 2, 3]\n", "base.yaml")
    top = read_text("trunk:\n  depth: 101\nlist: [4]\n", "top.yaml")
    merged = merge([base, top])
    assert merged.data == {"trunk": {"name": "resnet", "depth": 101}, "list": [4]}
    depth, name, gone = (merged.span(p) for p in (("trunk", "depth"), ("trunk", "name"), ("list", 2)))
    assert depth is not None
    assert str(depth) == "top.yaml:2:10"
    assert name is not None
    assert name.file == "base.yaml"
    assert gone is not None
    assert gone.file == "top.yaml"


def test_merging_leaves_its_arguments_alone() -> None:
    base, top = read_text("a: {b: 1}"), read_text("a: {b: 2}")
    merge([base, top])
    assert base.data == {"a": {"b": 1}}


def test_a_mapping_is_copied_not_kept() -> None:
    mine = {"trunk": {"name": "resnet"}}
    document = from_mapping(mine)
    document.data["trunk"]["name"] = "x"
    assert mine == {"trunk": {"name": "resnet"}}


@pytest.mark.parametrize("data", [{"a": {"": 1}}, {"a": [{2: 1}]}, {"a": "\ud800"}, {"a": 10**5000}])
def test_a_mapping_is_refused_if_no_file_could_say_it(data: Any) -> None:
    with pytest.raises(CompileError) as caught:
        from_mapping(data)
    assert [d.code for d in caught.value.diagnostics] == ["GM106"]


def test_extends_puts_the_file_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("trunk: {name: resnet, depth: 50}\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "top.yaml").write_text("extends: ../base.yaml\ntrunk: {depth: 18, width_multiplier: 0.25}\n")
    assert FileReader(allow_outside=True).read(tmp_path / "deep" / "top.yaml").data == {
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}
    }


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: [a.yaml]\n")
    with pytest.raises(CompileError) as caught:
        FileReader().read(tmp_path / "a.yaml")
    assert caught.value.diagnostics[0].code == "GM107"
    assert "a.yaml -> b.yaml -> a.yaml" in str(caught.value)


def test_a_missing_base_is_named_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nextends: nowhere.yaml\n")
    with pytest.raises(CompileError, match="nowhere") as caught:
        FileReader().read(tmp_path / "a.yaml")
    assert caught.value.diagnostics[0].span is not None
    assert caught.value.diagnostics[0].span.line == 2


def test_paths_take_dots_and_brackets() -> None:
    assert parse_path("heads.a[0].mlp.dims.1") == ("heads", "a", 0, "mlp", "dims", 1)


def test_overrides_set_values_of_any_kind_at_any_depth() -> None:
    document = read_text("trunk: {depth: 50}\nlist: [{a: 1}]\n")
    out = apply_overrides(document, ["trunk.depth=101", "list[0].a=[1, x]", "new.deep.key={b: 1e-3}", "empty="])
    assert out.data == {
        "trunk": {"depth": 101}, "list": [{"a": [1, "x"]}], "new": {"deep": {"key": {"b": 1e-3}}}, "empty": None,
    }  # fmt: skip
    assert document.data["trunk"]["depth"] == 50


def test_vissl_paths_may_leave_out_config() -> None:
    document = read_text("config: {MODEL: {TRUNK: {NAME: resnet}}}")
    for path in ("config.MODEL.TRUNK.NAME", "MODEL.TRUNK.NAME", "+config.MODEL.TRUNK.NAME"):
        out = apply_overrides(document, [f"{path}=regnet"], (("config",), ()))
        assert out.data == {"config": {"MODEL": {"TRUNK": {"NAME": "regnet"}}}}


@pytest.mark.parametrize(
    "item", ["nonsense", "=3", "a.b.c=1", "list[7]=1", "a=[", "a..b=1", "list[-1]=1", "list[9999999999]=1", "list[0=1"]
)
def test_bad_overrides_are_diagnosed(item: str) -> None:
    with pytest.raises(CompileError) as caught:
        apply_overrides(read_text("a: 1\nlist: [1]\n"), [item])
    assert [d.code for d in caught.value.diagnostics] == ["GM108"]


def test_all_bad_overrides_are_reported_at_once() -> None:
    with pytest.raises(CompileError) as caught:
        apply_overrides(read_text("a: 1"), ["x", "y"])
    assert len(caught.value.diagnostics) == 2
