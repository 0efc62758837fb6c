"""Which changes of a file count as a save."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphmodel.watching import files
from graphmodel.watching.files import Files


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("trunk: resnet\n")
    return path


@pytest.fixture
def watched(spec: Path) -> Files:
    found = Files()
    found.remember([str(spec)])
    return found


def test_nothing_happens_without_a_save(watched: Files) -> None:
    assert not watched.changed()
    assert not watched.settled()
    assert not watched.settled()


def test_a_save_counts_once_two_looks_see_the_same(watched: Files, spec: Path) -> None:
    spec.write_text("trunk: {name: resnet}\n")
    assert not watched.settled(), "the editor may still be writing"
    assert watched.settled()
    watched.remember([str(spec)])
    assert not watched.settled()


def test_a_file_that_is_still_growing_is_left_alone(watched: Files, spec: Path) -> None:
    spec.write_text("trunk: {name: r")
    assert not watched.settled()
    spec.write_text("trunk: {name: resnet}\n")
    assert not watched.settled()
    assert watched.settled()


def test_a_save_by_renaming_another_file_counts(watched: Files, spec: Path) -> None:
    same = spec.stat()
    new = spec.with_suffix(".tmp")
    new.write_text("trunk: regnet\n")  # as long, and as old
    os.utime(new, ns=(same.st_atime_ns, same.st_mtime_ns))
    os.replace(new, spec)
    assert not watched.settled()
    assert watched.settled()


def test_a_file_that_is_gone_or_empty_is_given_a_moment(
    watched: Files, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(files.time, "monotonic", lambda: now)
    for damage in (spec.unlink, lambda: spec.write_text("")):
        damage()
        assert [watched.settled() for _ in range(5)] == [False] * 5
        now += files.GRACE
        assert watched.settled()
        spec.write_text("trunk: resnet\n")
        watched.remember([str(spec)])


def test_a_file_may_appear_later(tmp_path: Path) -> None:
    watched = Files()
    watched.remember([str(tmp_path / "base.yaml"), "\0"])
    assert not watched.settled()
    (tmp_path / "base.yaml").write_text("a: 1\n")
    assert not watched.settled()
    assert watched.settled()


def test_further_files_keep_what_is_known_of_the_others(watched: Files, spec: Path, tmp_path: Path) -> None:
    spec.write_text("changed: 1\n")
    watched.add([str(spec), str(tmp_path / "base.yaml")])
    assert watched.changed()
