from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from graphmodel.diagnostics import Collector, CompileError
from graphmodel.spec.document import MAX_BYTES, read_file, read_text
from graphmodel.spec.scalars import plain_value


def codes(text: str) -> list[str]:
    with pytest.raises(CompileError) as caught:
        read_text(text, "spec.yaml")
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("-3", -3), ("0x10", 16), ("0o17", 15), ("1_000", 1000),
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None), ("Null", None),
        (".inf", float("inf")), ("1.2.3", "1.2.3"), ("2026-11-24", "2026-11-24"), ("1:30", "1:30"), ("tRuE", "tRuE"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert plain_value(text) == value
    assert type(plain_value(text)) is type(value)


def test_quoted_and_tagged_scalars_keep_their_type() -> None:
    data = read_text("a: '1e-5'\nb: !!str 3\nc: !!float 3\n").data
    assert data == {"a": "1e-5", "b": "3", "c": 3.0}
    assert isinstance(data["c"], float)


def test_every_key_and_value_knows_its_place() -> None:
    document = read_text("trunk:\n  name: resnet\n  stages: [1, 22]\n", "spec.yaml")
    span = document.span(("trunk", "stages", 1))
    assert span is not None
    assert (span.line, span.column, span.length, span.text) == (3, 15, 2, "  stages: [1, 22]")
    key = document.span(("trunk", "name"), key=True)
    assert key is not None
    assert (key.line, key.column, key.length) == (2, 3, 4)


def test_a_missing_path_falls_back_to_the_key_of_its_nearest_ancestor() -> None:
    span = read_text("trunk:\n  name: resnet\n").span(("trunk", "depth"))
    assert span is not None
    assert (span.line, span.column) == (1, 1)


def test_a_repeated_key_is_an_error_with_both_places() -> None:
    with pytest.raises(CompileError) as caught:
        read_text("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    found = caught.value.diagnostics
    assert [(d.code, d.span.line) for d in found if d.span] == [("GM102", 2), ("GM102", 3)]
    assert "line 1, column 1" in found[1].message


def test_merge_keys_take_what_the_mapping_does_not_say_itself() -> None:
    document = read_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n")
    assert document.data["more"] == {"x": 1, "y": 3}


@pytest.mark.slow
def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]" for i in range(12)]
    assert codes("\n".join(lines)) == ["GM103"]  # the 10^13 values that it expands to would never be read


def test_a_value_that_contains_itself_is_refused() -> None:
    assert codes("a: &x [1, *x]") == ["GM103"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [1, 2", "GM101"), ("a:\n\tb: 1", "GM101"), ("a: *nowhere", "GM101"), ("a: \x00", "GM101"), ("%%%", "GM101"),
        ("", "GM105"), ("# nothing\n", "GM105"), ("- 1\n- 2", "GM105"), ("just text", "GM105"),
        ("a: 1\n---\nb: 2", "GM105"), ("a: !!python/object:os.system x", "GM106"), ("a: !mine {b: 1}", "GM106"),
        ("? [1, 2]\n: 3", "GM106"), ("a: !!int x", "GM106"), ("a: {<<: 3}", "GM106"),
    ],
)  # fmt: skip
def test_broken_text_gives_one_diagnostic(text: str, code: str) -> None:
    assert codes(text) == [code]


@pytest.mark.parametrize("depth", [200, 5000])
def test_deep_nesting_is_refused(depth: int) -> None:
    assert codes("a: " + "[" * depth + "]" * depth)[0] in ("GM101", "GM104")


def test_unreadable_files_are_diagnosed(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("a: " + "x" * (MAX_BYTES + 10))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    for path, code, line in (
        (large, "GM104", 1),
        (latin, "GM101", 2),
        (tmp_path, "GM100", 1),
        (tmp_path / "no", "GM100", 1),
    ):
        with pytest.raises(CompileError) as caught:
            read_file(path)
        assert caught.value.diagnostics[0].code == code
        assert caught.value.diagnostics[0].span is not None
        assert caught.value.diagnostics[0].span.line == line


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
def test_what_is_not_a_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "a FIFO":
        os.mkfifo(path)
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "a socket":
            server.bind(str(path))
        with pytest.raises(CompileError, match=rf"GM100.*is {kind}, not a file"):
            read_file("/dev/zero" if kind == "a device" else path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_file(path).data == {"name": "x"}


def test_reading_goes_on_after_duplicate_keys() -> None:
    report = Collector()
    text = "a: {x: 1}\nb: {n: one, y: 2}\na: {z: 2, x: 1}\nb: {n: two, w: 3}\nc: 1\nc: 2\n"
    document = read_text(text, report=report)
    assert document.data == {"a": {"x": 1, "z": 2}, "b": {"n": "one", "y": 2}, "c": 1}
    assert [(d.code, d.span and d.span.line) for d in report.errors] == [("GM102", 3), ("GM102", 4), ("GM102", 6)]
    span = document.span(("a", "z"))
    assert span is not None
    assert (span.line, span.column) == (3, 8)


def test_other_mistakes_of_reading_stop_it() -> None:
    with pytest.raises(CompileError) as caught:
        read_text("a: 1\na: !!python/name:os.system 2\nb: !!x 3\n", report=Collector())
    assert [d.code for d in caught.value.diagnostics] == ["GM102", "GM106"]
