"""Small files are processed quickly and broken ones get a diagnostic, whatever they do to the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphmodel import CompileError, load_spec
from tests.effort import growth, steps

ROOT = "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n"


def single(error: CompileError | None) -> tuple[str, str]:
    """The code and message of the one error."""
    assert error is not None
    [found] = [d for d in error.diagnostics if d.severity == "error"]
    return found.code, found.message


@pytest.fixture(autouse=True)
def warm() -> None:
    """Pydantic's models are built while they are imported, which is not what is counted here."""
    load_spec({"trunk": "resnet"})


# -- extends ----------------------------------------------------------------------------------------------------------


def test_files_that_each_name_the_next_one_twice_are_read_once_each(tmp_path: Path) -> None:
    for i in range(14):
        (tmp_path / f"{i}.yaml").write_text(f"extends: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "14.yaml").write_text(ROOT)
    count, error = steps(lambda: load_spec(tmp_path / "0.yaml"))
    assert error is None
    assert count < 200_000  # 80,000 are taken; as many times more if all 16,383 files were read


def test_three_files_that_name_each_other_a_hundred_times(tmp_path: Path) -> None:
    for name, below in (("a", "b"), ("b", "c")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: [{', '.join([f'{below}.yaml'] * 100)}]\n")
    (tmp_path / "c.yaml").write_text(ROOT)
    count, error = steps(lambda: load_spec(tmp_path / "a.yaml"))
    assert error is None
    assert count < 500_000  # 200,000 are taken


def test_large_files_that_are_named_many_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: [{', '.join(['b.yaml'] * 1000)}]\n")
    (tmp_path / "b.yaml").write_text(ROOT + "head_defaults: {" + ", ".join(f"k{i}: 1" for i in range(5000)) + "}\n")
    count, error = steps(lambda: load_spec(tmp_path / "a.yaml"))
    assert single(error)[0] == "GM107"
    assert "values in all" in single(error)[1]
    assert count < 3_000_000  # 1,200,000 are taken


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    for i in range(1200):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    (tmp_path / "1200.yaml").write_text(ROOT)
    count, error = steps(lambda: load_spec(tmp_path / "0.yaml"))
    assert single(error) == ("GM107", "more than 50 files extend each other in a row")
    assert count < 200_000  # 70,000 are taken


@pytest.mark.parametrize("name", ['"a\\0b.yaml"', "x" * 5000, f"{'d/' * 3000}x.yaml", "loop.yaml", "loop.yaml/x.yaml"])
def test_paths_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "a.yaml").write_text(f"extends: {name}\n{ROOT}")
    assert single(steps(lambda: load_spec(tmp_path / "a.yaml"))[1])[0] == "GM107"


@pytest.mark.parametrize("name", ["../secret.yaml", "link.yaml", "below/../../secret.yaml", "{outside}/secret.yaml"])
def test_a_file_outside_the_directory_of_the_spec_is_not_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("password: hunter2\n")
    inside = tmp_path / "inside"
    (inside / "below").mkdir(parents=True)
    (inside / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (inside / "a.yaml").write_text(f"extends: {name.format(outside=tmp_path)}\n{ROOT}")
    error = steps(lambda: load_spec(inside / "a.yaml"))[1]
    assert single(error)[0] == "GM107"
    assert "outside the directory of the spec" in single(error)[1]
    assert "hunter2" not in str(error)
    assert "password" not in str(error)
    allowed = steps(lambda: load_spec(inside / "a.yaml", allow_extends_outside=True))[1]
    assert single(allowed) == ("GM201", "unknown key `password` in the spec")


def test_lines_of_files_that_a_defaults_list_finds_above_are_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "found.yaml").write_text("config: {MODEL: {TRUNC: hunter2}}\n")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.yaml").write_text("defaults: [found]\nconfig: {MODEL: {TRUNK: {NAME: resnet}}}\n")
    error = steps(lambda: load_spec(tmp_path / "inside" / "a.yaml"))[1]
    assert error is not None
    assert "GM201" in {d.code for d in error.diagnostics}
    assert "hunter2" not in str(error)


# -- one file ---------------------------------------------------------------------------------------------------------


def test_merge_keys_take_linear_time(tmp_path: Path) -> None:
    def load(size: int) -> None:
        lines = "".join(f"  k{i}: {{<<: *base, x: {i}}}\n" for i in range(size))
        (tmp_path / "a.yaml").write_text(f"{ROOT}head_defaults:\n  base: &base {{a: 1, b: 2}}\n{lines}")
        load_spec(tmp_path / "a.yaml")

    assert growth(load, 250) < 5


def test_merge_keys_that_merge_each_other_are_bounded(tmp_path: Path) -> None:
    lines = "".join(f"  m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}\n" for i in range(1, 60))
    (tmp_path / "a.yaml").write_text(f"{ROOT}head_defaults:\n  m0: &m0 {{a: 1}}\n{lines}")
    count, error = steps(lambda: load_spec(tmp_path / "a.yaml"))
    assert single(error)[0] == "GM103"
    assert count < 12_000_000  # 5,500,000 are taken


@pytest.mark.parametrize(
    ("line", "code"), [("key{}: 1\n", "GM201"), ("name: a{}\n", "GM102")], ids=["unknown", "duplicate"]
)
def test_thousands_of_wrong_keys_are_counted_in_linear_time(line: str, code: str, tmp_path: Path) -> None:
    def load(size: int) -> None:
        (tmp_path / "a.yaml").write_text(ROOT + "".join(line.format(i) for i in range(size)))
        load_spec(tmp_path / "a.yaml")

    with pytest.raises(CompileError) as caught:
        load(30_000)
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert len(caught.value.diagnostics) == 100
    assert caught.value.omitted >= 29_899
    assert growth(load, 500) < 5


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "-" + "1" * 5000, "1_" * 3000 + "1", "0x" + "f" * 5000, "0" * 100_000 + "x", "1" * 3000 + ".5"],
    ids=["digits", "negative", "underscores", "hexadecimal", "zeros", "fraction"],
)
def test_numbers_too_long_to_convert(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{ROOT}checkpoint: {text}\n")
    count, error = steps(lambda: load_spec(tmp_path / "a.yaml"))
    assert single(error)[0] in ("GM106", "GM202")
    assert len(str(error)) < 5000
    assert count < 100_000  # at most 42,000 are taken


@pytest.mark.parametrize(
    "value", [10**5000, "a\ud800", {"a\udfff": 1}, [["x", "\udc80"]]], ids=["int", "text", "key", "item"]
)
def test_values_in_memory_that_no_file_could_have(value: object) -> None:
    error = steps(lambda: load_spec({"trunk": {"name": "resnet", "depth": value}}))[1]
    assert single(error)[0] == "GM106"
    str(error).encode()


def test_a_mapping_that_contains_itself() -> None:
    mine: dict[str, object] = {"trunk": "resnet"}
    mine["head_defaults"] = mine
    assert single(steps(lambda: load_spec(mine))[1])[0] == "GM104"


@pytest.mark.parametrize(
    "item", ["a.²=1", "trunk.depth=\udcff", "name=" + "9" * 5000, ".".join("a" * 500) + "=1", f"a[{'9' * 5000}]=1"]
)
def test_overrides_that_are_not_paths_and_values(item: str) -> None:
    error = steps(lambda: load_spec({"trunk": "resnet"}, [item]))[1]
    assert single(error)[0] in ("GM108", "GM201")
    str(error).encode()


def with_heads(size: int, read: str) -> dict[str, Any]:
    heads = {f"h{i}": {"mlp": {"dims": [512, 4]}} for i in range(size)}
    mapping = [{"from": "images.res5", "head": read.format(i)} for i in range(size)]
    return {"trunk": "resnet", "heads": heads, "mapping": mapping}


def test_thousands_of_heads_and_outputs_take_linear_time() -> None:
    assert growth(lambda size: load_spec(with_heads(size, "h{}")), 250) < 5


def test_thousands_of_unknown_heads_are_counted_in_linear_time() -> None:
    assert growth(lambda size: load_spec(with_heads(size, "x{}")), 100) < 5
    with pytest.raises(CompileError) as caught:
        load_spec(with_heads(4000, "x{}"))
    assert caught.value.omitted == 3900


def test_too_many_views_are_refused() -> None:
    views = [{"count": 1000, "shape": [3, 32, 32]}, {"shape": [3, 64, 64]}]
    error = steps(lambda: load_spec({"inputs": {"crops": {"views": views}}, "trunk": "resnet"}))[1]
    assert single(error)[0] == "GM202"
    assert "1001 views" in single(error)[1]


def test_generated_output_names_are_unique() -> None:
    mapping = [{"from": f"images.res{i}", "head": h} for h in ("a", "a_images_res3") for i in (3, 3, 4)]
    mapping += [{"from": "images.res5", "head": "b", "as": "a_images_res3_2"}]
    spec = load_spec(
        {"trunk": "resnet", "heads": dict.fromkeys(("a", "a_images_res3", "b"), "identity"), "mapping": mapping}
    )
    names = [edge.output for edge in spec.edges]
    assert len(set(names)) == len(names) == 7
